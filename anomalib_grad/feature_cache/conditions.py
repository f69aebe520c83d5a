# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""When features may be cached, and when it pays."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

UNCHANGING = (
    v2.Compose,
    v2.Resize,
    v2.CenterCrop,
    v2.Pad,
    v2.Grayscale,
    v2.Normalize,
    v2.ToDtype,
    v2.ToImage,
    v2.Identity,
    nn.Identity,
)
"""Transforms that make the same of an image every time."""
READERS = ("anomalib.", "anomalib_grad.")
"""Packages whose datasets read the same image from a file every time, apart from their augmentations."""


def first_augmentation(transforms: Iterable[nn.Module | None]) -> str | None:
    """Name the first transform that may give another result every time, if there is one."""
    for transform in transforms:
        if transform is None:
            continue
        if type(transform) not in UNCHANGING:
            return type(transform).__name__
        inner = first_augmentation(getattr(transform, "transforms", ()))
        if inner is not None:
            return inner
    return None


def obstacle(loader: object, pre_processing: nn.Module | None) -> str | None:
    """Say why the features of a training loader cannot be cached; ``None`` if they can.

    Args:
        loader: What the datamodule trains on.
        pre_processing: What the model does to its images before the backbone.
    """
    if not isinstance(loader, DataLoader):
        return f"the training data come from a {type(loader).__name__}, not from one DataLoader"
    samples = getattr(loader.dataset, "samples", None)
    if samples is None or "image_path" not in samples or len(samples) != len(loader.dataset):  # type: ignore[arg-type]
        return f"{type(loader.dataset).__name__} has no list of its image files"
    readers = [type(dataset).__getitem__ for dataset in getattr(loader.dataset, "parts", [loader.dataset])]
    strange = next((reader for reader in readers if not reader.__module__.startswith(READERS)), None)
    if strange is not None:
        return f"{strange.__qualname__} may make another image of a file every time"
    if loader.collate_fn != getattr(loader.dataset, "collate_fn", loader.collate_fn):
        maker = getattr(loader.collate_fn, "__name__", type(loader.collate_fn).__name__)
        return f"batches are made by {maker}, which may change their images"
    augmentation = first_augmentation([getattr(loader.dataset, "augmentations", None), pre_processing])
    if augmentation is not None:
        return f"training images are augmented ({augmentation})"
    missing = next((path for path in dict.fromkeys(samples["image_path"]) if not Path(path).is_file()), None)
    return f"{missing} is no file" if missing is not None else None


def passes(trainer: pl.Trainer, batches: int) -> float:
    """Number of times that a training, or what is left of one that goes on, sees each of its images.

    Args:
        trainer: The trainer with the user's limits.
        batches: Batches of an epoch, over all processes.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    epochs = math.inf if trainer.max_epochs in {None, -1} else float((trainer.max_epochs or 0) - progress.processed)
    limit = trainer.limit_train_batches
    share = limit if isinstance(limit, float) else limit * trainer.world_size / max(batches, 1)
    left = trainer.max_steps - trainer.global_step
    steps = math.inf if trainer.max_steps == -1 else left * trainer.accumulate_grad_batches
    return min(epochs * min(share, 1.0), steps * trainer.world_size / max(batches, 1))
