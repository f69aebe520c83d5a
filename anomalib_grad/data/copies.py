# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Moved copies of training images, as a part lies on another day.

Features are looked up by place and content, so a part that lies half a cell off its usual place looks anomalous. A head
memorises a handful of images and finds everything else anomalous, so copies of so few are turned as well.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional

from anomalib_grad.settings import TrainingSettings

from .training_loader import ReplacesTrainingLoader, sampling_arguments

logger = logging.getLogger(__name__)

SETTING = "training.copies"
MAX_SHIFT = 0.03
"""Largest shift of a copy, as a share of the image's side."""
MIRRORED_SHARE = 0.5
"""Share of copies whose edges are padded by mirroring the image; the others repeat its edge pixels."""


def moved(image: Tensor, seed: int) -> Tensor:
    """Move an image ``(3, H, W)`` by a random distance; new pixels at an edge repeat or mirror the image."""
    down, right, chance = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
    height, width = image.shape[-2:]
    top, left = (round((2 * share - 1) * MAX_SHIFT * side) for share, side in ((down, height), (right, width)))
    margin = max(abs(top), abs(left))
    mode = "reflect" if chance < MIRRORED_SHARE and margin < min(height, width) else "edge"
    padded = functional.pad(image, [margin] * 4, padding_mode=mode)
    return functional.crop(padded, margin - top, margin - left, height, width)


def turned(image: Tensor, seed: int) -> Tensor:
    """Turn an image ``(3, H, W)`` by a random number of quarter turns, or of half turns if it is not square."""
    height, width = image.shape[-2:]
    quarters = int(torch.randint(4, (), generator=torch.Generator().manual_seed(seed)))
    return image.rot90(quarters if height == width else 2 * quarters, dims=(-2, -1))


class Copies(Dataset[Any]):
    """A dataset of N images followed by copies of all of them; a copy is the same whenever it is read.

    Attributes:
        turned: Names of the products whose copies are turned: those with fewer images than ``turned_below``. The name
            is empty if the data do not tell products apart.
    """

    def __init__(self, dataset: Any, copies: int, turned_below: int = 0) -> None:  # noqa: ANN401  # any of anomalib's
        self.dataset = dataset
        self.copies = copies
        self._products = list(dataset.samples.get("category", [""] * len(dataset)))
        self.turned = sorted(name for name, count in Counter(self._products).items() if count < turned_below)
        self.samples = pd.concat([dataset.samples] * (copies + 1), ignore_index=True)
        self.parts = getattr(dataset, "parts", [dataset])
        self.augmentations = getattr(dataset, "augmentations", None)
        self.file_format = getattr(dataset, "file_format", None)
        self.collate_fn = dataset.collate_fn

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401  # the data set's item
        copy, row = divmod(index, len(self.dataset))
        item = self.dataset[row]
        if copy:
            item.image = moved(item.image, seed=index)
            if self._products[row] in self.turned:
                item.image = turned(item.image, seed=-index)  # another seed than that of the shift
        return item


class AnyVersion(Sampler[int]):
    """Draw images as another sampler does, and of each a random version: itself or one of its ``copies``."""

    def __init__(self, sampler: Any, images: int, copies: int) -> None:  # noqa: ANN401  # torch's, or Lightning's
        self.sampler = sampler
        self.images = images
        self.copies = copies

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to a sampler that uses it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        for index in self.sampler:
            yield index + self.images * int(torch.randint(self.copies + 1, ()))

    def __len__(self) -> int:
        return len(self.sampler)


def with_copies(loader: object, copies: int, turned_below: int = 0) -> object:
    """Return a loader that draws as a training loader does, but a random version of each image.

    Anything but a ``DataLoader`` of anomalib's images is returned unchanged.
    """
    if not isinstance(loader, DataLoader) or loader.batch_size is None or not hasattr(loader.dataset, "samples"):
        logger.warning("%s is off: the training data are not one DataLoader of anomalib's images.", SETTING)
        return loader
    versions = Copies(loader.dataset, copies, turned_below)
    if versions.turned:
        whose = f" of {', '.join(versions.turned)}" if any(versions.turned) else ""
        logger.info(
            "There are few training images%s, so their copies are turned as well; set training.turned_below to 0 if a "
            "turned part is a defect.",
            whose,
        )
    sampler = AnyVersion(loader.sampler, len(loader.dataset), copies)  # type: ignore[arg-type]  # it has a length
    return DataLoader(
        versions,
        **sampling_arguments(loader) | {"sampler": sampler},
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        persistent_workers=loader.persistent_workers,
        generator=loader.generator,
        multiprocessing_context=loader.multiprocessing_context,
    )


class TrainOnCopies(ReplacesTrainingLoader):
    """Callback that adds copies to the training images; must be set up before the feature cache."""

    def wanted(self, model: Any) -> str | None:  # noqa: ANN401  # see the base class
        """Return the name of the setting if copies are wanted."""
        return SETTING if model.settings.training.copies else None

    def training_loader(self, trainer: pl.Trainer, images: Any) -> object:  # noqa: ANN401  # see the base class
        """Return a loader that draws a random version of each image, or ``images`` itself without copies."""
        settings: TrainingSettings = trainer.lightning_module.settings.training  # type: ignore[union-attr, assignment]
        return with_copies(images, settings.copies, settings.turned_below or 0) if settings.copies else images
