# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Some of the images that a training sees, for what is learnt from them beside the weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
from anomalib.pre_processing import PreProcessor
from torch import nn

from .feature_cache import FeatureBatch, batches_of

if TYPE_CHECKING:
    from anomalib.data import Batch


def training_batches(
    trainer: pl.Trainer, module: pl.LightningModule, indices: Sequence[int]
) -> "Iterator[Batch | FeatureBatch]":
    """Batches of some training images, or of their cached features, pre-processed as for a training step."""
    loader: Any = trainer.train_dataloader
    for batch in batches_of(loader, indices):
        on_device = trainer.strategy.batch_to_device(batch)
        if isinstance(module.pre_processor, PreProcessor):
            module.pre_processor.on_train_batch_start(trainer, module, on_device, 0)
        yield on_device


def spread(trainer: pl.Trainer, most: int) -> list[int]:
    """Indices of at most ``most`` training images, evenly from the whole data set."""
    return evenly(range(len(dataset_of(trainer))), most)


def spread_by_category(trainer: pl.Trainer, most: int) -> list[int]:
    """Indices of at most ``most`` training images of each category; twice as many where the data have none."""
    samples = getattr(dataset_of(trainer), "samples", None)
    if samples is None or "category" not in samples:
        return spread(trainer, 2 * most)
    own: dict[str, list[int]] = {}
    for index, name in enumerate(samples["category"]):
        own.setdefault(name, []).append(index)
    return [index for indices in own.values() for index in evenly(indices, most)]


def dataset_of(trainer: pl.Trainer) -> Any:  # noqa: ANN401  # anomalib's, or of cached features
    """The data set that is trained on."""
    loader: Any = trainer.train_dataloader
    return loader.dataset


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Have a model predict in the block, and do then what it did before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def evenly(indices: Sequence[int], most: int) -> list[int]:
    """Take at most ``most`` of some indices, evenly from all of them."""
    places = np.linspace(0, len(indices) - 1, min(len(indices), most)).round().astype(int)
    return [indices[place] for place in places]
