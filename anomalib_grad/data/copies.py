# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Training images beside copies of them as another day shows them: moved, in other light, out of focus.

Where features are looked up by place and content, a part that lies half a cell beside where it always lay looks wrong.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional

from .training_loader import ReplacesTrainingLoader

logger = logging.getLogger(__name__)

SETTING = "training.copies"
FARTHEST = 0.03
"""Share of a side by which a copy is moved at the most."""
BRIGHTEST = 0.12
"""Share by which it is brighter or darker at the most."""
MIRRORED = 0.5
"""Share of copies at whose edges what is there is mirrored; at those of the others it continues."""
BLURRED = 0.25
"""Share of copies that are blurred."""
WIDEST = 1 / 350
"""Standard deviation of their blur at the most, as a share of the longer side."""


def on_another_day(image: Tensor, seed: int) -> Tensor:
    """Move, relight and, at times, blur an image.

    Args:
        image: RGB image ``(3, H, W)``, of floating point in [0, 1] or of integers.
        seed: Decides how.

    Returns:
        An image of that shape and type; what comes in at an edge continues or mirrors what is there.
    """
    generator = torch.Generator().manual_seed(seed)
    down, right, light, width, *chances = torch.rand(6, generator=generator).tolist()
    mirrored, blurred = chances[0] < MIRRORED, chances[1] < BLURRED
    height, length = image.shape[-2:]
    top, left = (round((2 * share - 1) * FARTHEST * side) for share, side in ((down, height), (right, length)))
    margin = max(abs(top), abs(left))
    mode = "reflect" if mirrored and margin < min(height, length) else "edge"
    padded = functional.pad(image, [margin] * 4, padding_mode=mode)
    moved = functional.crop(padded, margin - top, margin - left, height, length)
    lit = functional.adjust_brightness(moved, 1 + (2 * light - 1) * BRIGHTEST)
    sigma = width * WIDEST * max(height, length)
    reach = int(3 * sigma) + 1
    if not blurred or sigma == 0 or reach >= min(height, length):
        return lit
    return functional.gaussian_blur(lit, kernel_size=2 * reach + 1, sigma=sigma)


class Copies(Dataset[Any]):
    """A data set of N images, followed by some copies of all of them; a copy is the same whenever it is read."""

    def __init__(self, dataset: Any, copies: int) -> None:  # noqa: ANN401  # any of anomalib's
        self.dataset = dataset
        self.copies = copies
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
            item.image = on_another_day(item.image, seed=index)
        return item


class AnyVersion(Sampler[int]):
    """Draws images as another sampler does, and of each any version: itself or one of its ``copies``."""

    def __init__(self, sampler: Any, images: int, copies: int) -> None:  # noqa: ANN401  # torch's, or Lightning's
        self.sampler = sampler
        self.images = images
        self.copies = copies

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on to a sampler that draws by it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        for index in self.sampler:
            yield index + self.images * int(torch.randint(self.copies + 1, ()))

    def __len__(self) -> int:
        return len(self.sampler)


def with_copies(loader: object, copies: int) -> object:
    """Give a loader that draws as a training loader does, of each image any version.

    One that is no ``DataLoader`` of anomalib's images is left as it is.
    """
    if not isinstance(loader, DataLoader) or loader.batch_size is None or not hasattr(loader.dataset, "samples"):
        logger.warning("%s is off: the training data are not one DataLoader of anomalib's images.", SETTING)
        return loader
    return DataLoader(
        Copies(loader.dataset, copies),
        batch_size=loader.batch_size,
        sampler=AnyVersion(loader.sampler, len(loader.dataset), copies),  # type: ignore[arg-type]  # it has a length
        drop_last=loader.drop_last,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        persistent_workers=loader.persistent_workers,
        generator=loader.generator,
        multiprocessing_context=loader.multiprocessing_context,
    )


class TrainOnCopies(ReplacesTrainingLoader):
    """Puts copies beside the training images; to be set up before the feature cache."""

    def __init__(self, copies: Callable[[], int]) -> None:
        self._copies = copies

    def wanted(self) -> str | None:
        """Name the setting, if there are to be copies."""
        return SETTING if self._copies() else None

    def training_loader(self, trainer: pl.Trainer, images: object) -> object:
        """Give a loader that draws any version of an image, or the images' own without copies."""
        copies = self._copies()
        return with_copies(images, copies) if copies else images
