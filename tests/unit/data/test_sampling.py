# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from torch.utils.data import DistributedSampler, Sampler, SequentialSampler, Subset

from anomalib_grad.data.sampling import BalancedSampler, EvaluationBatchSampler

GROUPS = st.lists(st.integers(0, 3), min_size=4, max_size=60)


class Grouped(list):
    """A data set whose items are their groups, which Lightning does not know."""

    @property
    def groups(self) -> list[int]:
        return list(self)


def test_balanced_draws_follow_the_seed_and_are_even() -> None:
    categories = ["rare"] * 3 + ["common"] * 997
    drawn = list(BalancedSampler(categories, seed=5))
    assert drawn == list(BalancedSampler(categories, seed=5))
    assert drawn != list(BalancedSampler(categories, seed=6))
    assert len(drawn) == 1000
    assert 430 < sum(index < 3 for index in drawn) < 570
    torch.manual_seed(0)
    first = list(BalancedSampler(categories, seed=None))
    torch.manual_seed(0)
    assert first == list(BalancedSampler(categories, seed=None))


def test_balanced_draws_of_an_epoch_do_not_depend_on_what_was_drawn_before() -> None:
    categories = ["rare"] * 3 + ["common"] * 97
    going_on, started_there = BalancedSampler(categories, seed=5), BalancedSampler(categories, seed=5)
    epochs = []
    for epoch in range(4):
        going_on.set_epoch(epoch)
        epochs.append(list(going_on))
    assert len({tuple(drawn) for drawn in epochs}) == 4
    started_there.set_epoch(3)
    assert list(started_there) == epochs[3]


def test_lightning_shares_the_balanced_draws_of_an_epoch_among_processes() -> None:
    categories = ["rare"] * 3 + ["common"] * 97
    whole = BalancedSampler(categories, seed=5)
    for epoch in (0, 3):
        whole.set_epoch(epoch)
        shared = []
        for rank in range(2):
            share = DistributedSamplerWrapper(BalancedSampler(categories, seed=5), num_replicas=2, rank=rank)
            share.set_epoch(epoch)
            shared += list(share)
        assert sorted(shared) == sorted(whole)


@settings(deadline=None)
@given(GROUPS, st.integers(1, 7))
def test_batches_keep_order_and_never_mix_groups(groups: list[int], batch_size: int) -> None:
    batches = EvaluationBatchSampler(SequentialSampler(Grouped(groups)), batch_size, drop_last=False)
    assert [index for batch in batches for index in batch] == list(range(len(groups)))
    assert all(len(batch) <= batch_size and len({groups[index] for index in batch}) == 1 for batch in batches)
    assert len(batches) == len(list(batches))
    full = EvaluationBatchSampler(SequentialSampler(Grouped(groups)), batch_size, drop_last=True)
    assert all(len(batch) == batch_size for batch in full)


@settings(deadline=None)
@given(GROUPS, st.integers(1, 4))
def test_processes_share_every_image_once(groups: list[int], n_processes: int) -> None:
    seen = []
    for rank in range(n_processes):
        padded = DistributedSampler(Grouped(groups), num_replicas=n_processes, rank=rank, shuffle=False)
        batches = EvaluationBatchSampler(padded, 3, drop_last=False)
        seen += [index for batch in batches for index in batch]
    assert sorted(seen) == list(range(len(groups)))


def test_more_processes_than_images_is_an_error() -> None:
    padded = DistributedSampler(Grouped([0, 0]), num_replicas=3, rank=0, shuffle=False)
    with pytest.raises(ValueError, match="use fewer devices"):
        EvaluationBatchSampler(padded, 3, drop_last=False)


class Own(Sampler):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sampler: sampler,
        lambda sampler: DistributedSampler(sampler.data_source, num_replicas=1, rank=0, shuffle=False),
        lambda sampler: UnrepeatedDistributedSamplerWrapper(sampler, num_replicas=1, rank=0, shuffle=False),
    ],
    ids=["alone", "distributed", "predicting"],
)
def test_the_groups_are_those_of_the_data_set_behind_all_samplers(wrap) -> None:
    batches = EvaluationBatchSampler(wrap(SequentialSampler(Grouped([0, 0, 1, 1]))), 3, drop_last=False)
    assert list(batches) == [[0, 1], [2, 3]]


def test_groups_that_nobody_knows_are_asked_for() -> None:
    for data, named in ((list(range(4)), "list"), (Subset(Grouped([0, 0, 1]), [2, 0]), "Subset")):
        with pytest.raises(
            ValueError,
            match=f"^{named} does not say which images can share a batch: give the dataset an attribute groups",
        ):
            EvaluationBatchSampler(SequentialSampler(data), 3, drop_last=False)
    with pytest.raises(ValueError, match=r"^Own does not say"):
        EvaluationBatchSampler(Own(), 3, drop_last=False)
