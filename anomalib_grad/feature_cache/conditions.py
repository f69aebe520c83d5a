# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Conditions of the feature cache: whether features may be cached, whether it pays, and in memory or on disk."""

import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import psutil
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_grad.files.atomic import nearest_folder
from anomalib_grad.settings import CacheSettings

from .store import ADVICE, GIB

logger = logging.getLogger(__name__)

DETERMINISTIC = (
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
"""Deterministic transforms."""
DETERMINISTIC_PACKAGES = ("anomalib.", "anomalib_grad.")
"""Packages whose datasets read the same image from a file every time, apart from their augmentations."""
MEMORY_SHARE = 0.5
"""Largest share of the available memory for a cache whose place the user did not choose."""


def first_augmentation(transforms: Iterable[nn.Module | None]) -> str | None:
    """Return the name of the first transform that may be random; ``None`` without one."""
    for transform in transforms:
        if transform is None:
            continue
        if type(transform) not in DETERMINISTIC:
            return type(transform).__name__
        inner = first_augmentation(getattr(transform, "transforms", ()))
        if inner is not None:
            return inner
    return None


def reason_against_caching(loader: object, pre_processing: nn.Module | None) -> str | None:
    """Say why a loader's features, after ``pre_processing`` and backbone, cannot be cached; ``None`` if they can."""
    if not isinstance(loader, DataLoader):
        return f"the training data come from a {type(loader).__name__}, not from one DataLoader"
    samples = getattr(loader.dataset, "samples", None)
    if samples is None or "image_path" not in samples or len(samples) != len(loader.dataset):  # type: ignore[arg-type]
        return f"{type(loader.dataset).__name__} does not list its image files"
    readers = [type(dataset).__getitem__ for dataset in getattr(loader.dataset, "parts", [loader.dataset])]
    unknown = next((reader for reader in readers if not reader.__module__.startswith(DETERMINISTIC_PACKAGES)), None)
    if unknown is not None:
        return f"{unknown.__qualname__} may return a different image of the same file every time"
    if loader.collate_fn != getattr(loader.dataset, "collate_fn", loader.collate_fn):
        collate = getattr(loader.collate_fn, "__name__", type(loader.collate_fn).__name__)
        return f"batches are made by {collate}, which may change their images"
    augmentation = first_augmentation([getattr(loader.dataset, "augmentations", None), pre_processing])
    if augmentation is not None:
        return f"training images are augmented ({augmentation})"
    missing = next((path for path in dict.fromkeys(samples["image_path"]) if not Path(path).is_file()), None)
    return f"{missing} is not a file" if missing is not None else None


def passes(trainer: pl.Trainer, batches: int) -> float:
    """Return how often a training, or the rest of a resumed one, sees each of its images.

    ``batches`` is the number of batches in an epoch over all processes.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    epochs = math.inf if trainer.max_epochs in {None, -1} else float((trainer.max_epochs or 0) - progress.processed)
    limit = trainer.limit_train_batches
    share = limit if isinstance(limit, float) else limit * trainer.world_size / max(batches, 1)
    left = trainer.max_steps - trainer.global_step
    steps = math.inf if trainer.max_steps == -1 else left * trainer.accumulate_grad_batches
    return min(epochs * min(share, 1.0), steps * trainer.world_size / max(batches, 1))


def choose_place(settings: CacheSettings, place: str, size: int, processes: int) -> str | None:
    """Choose between memory and disk for a cache of ``size`` bytes; ``None`` if there is no room for it.

    Without the user's choice, a cache is kept in memory if that leaves enough for others, else on disk. Several
    processes share a file, while each would need a copy in memory.

    Raises:
        ValueError: If the user chose a place and the cache is larger than allowed.
    """
    folder = settings.resolved_folder
    if size > settings.limit * GIB:
        problem = (
            f"but cache.gib allows only {settings.limit:g}: raise cache.gib, or halve their size with cache.dtype "
            f"float16"
        )
        if place != "auto":
            raise ValueError(f"the features take {size / GIB:.2f} GiB, {problem}, or set feature_cache to false.")
    elif place != "auto":
        return place
    elif processes > 1:  # they must agree
        return "disk"
    elif size <= MEMORY_SHARE * psutil.virtual_memory().available:
        return "memory"
    elif size <= shutil.disk_usage(nearest_folder(folder / "cache")).free:
        return "disk"
    else:
        problem = f"and fit neither into memory nor into {folder}; {ADVICE}"
    logger.warning(
        "The feature cache is off, so every epoch computes all features again: they take %.2f GiB, %s.",
        size / GIB,
        problem,
    )
    return None
