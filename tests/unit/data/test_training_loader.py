# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Batches are counted without making what is trained on."""

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from anomalib_grad.data.training_loader import counting_batches

LOADERS: dict[str, dict[str, Any]] = {
    "shuffled": {"batch_size": 4, "shuffle": True},
    "whole batches": {"batch_size": 4, "drop_last": True},
    "batches of a sampler": {"batch_sampler": BatchSampler(RandomSampler(range(10)), 3, drop_last=False)},
}


class Images:
    """A datamodule whose loader has workers."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(10), num_workers=2, **self.arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", LOADERS)
def test_batches_are_counted_without_features_workers_or_random_numbers(kind: str) -> None:
    def compute() -> NoReturn:
        raise AssertionError("features were computed")

    data: Any = Images(LOADERS[kind])
    expected = len(data.train_dataloader())
    data.train_dataloader = compute
    trainer: Any = SimpleNamespace(datamodule=data, fit_loop=SimpleNamespace(_combined_loader="counted"))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with counting_batches(trainer):
        loader = data.train_dataloader()
        assert (len(loader), loader.num_workers) == (expected, 0)
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)
    assert data.train_dataloader is compute
    assert trainer.fit_loop._combined_loader is None  # so that the trainer asks for it
