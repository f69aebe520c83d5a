# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Training images beside copies of them as another day shows them: moved, in other light, out of focus.

Where features are looked up by place and content, a part that lies half a cell beside where it always lay looks wrong.
A head learns a handful of images by heart, and finds everything else wrong: of those copies are turned as well.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional

from anomalib_grad.settings import TrainingSettings

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


def turned(image: Tensor, seed: int) -> Tensor:
    """Turn an image ``(3, H, W)`` by any number of quarters, of halves where it is not square; of that shape."""
    height, width = image.shape[-2:]
    quarters = int(torch.randint(4, (), generator=torch.Generator().manual_seed(seed)))
    return image.rot90(quarters if height == width else 2 * quarters, dims=(-2, -1))


class Copies(Dataset[Any]):
    """A data set of N images, followed by some copies of all of them; a copy is the same whenever it is read.

    Attributes:
        turned: Names of the products of which copies are turned: those with fewer images than ``turned_below``. The
            name is empty where the data tell none apart.
    """

    def __init__(self, dataset: Any, copies: int, turned_below: int = 0) -> None:  # noqa: ANN401  # any of anomalib's
        self.dataset = dataset
        self.copies = copies
        images = dataset.samples
        self._products = list(images["category"]) if "category" in images else [""] * len(images)
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
            item.image = on_another_day(item.image, seed=index)
            if self._products[row] in self.turned:
                item.image = turned(item.image, seed=-index)  # drawn apart from where it moved
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


def with_copies(loader: object, copies: int, turned_below: int = 0) -> object:
    """Give a loader that draws as a training loader does, of each image any version.

    One that is no ``DataLoader`` of anomalib's images is left as it is.
    """
    if not isinstance(loader, DataLoader) or loader.batch_size is None or not hasattr(loader.dataset, "samples"):
        logger.warning("%s is off: the training data are not one DataLoader of anomalib's images.", SETTING)
        return loader
    versions = Copies(loader.dataset, copies, turned_below)
    if versions.turned:
        whose = f" of {', '.join(versions.turned)}" if any(versions.turned) else ""
        logger.info(
            "Training images%s are few: copies of them are turned as well; set training.turned_below to 0 where a part "
            "that lies turned is a defect.",
            whose,
        )
    return DataLoader(
        versions,
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

    def __init__(self, settings: Callable[[], TrainingSettings]) -> None:
        self._settings = settings

    def wanted(self) -> str | None:
        """Name the setting, if there are to be copies."""
        return SETTING if self._settings().copies else None

    def training_loader(self, trainer: pl.Trainer, images: object) -> object:
        """Give a loader that draws any version of an image, or the images' own without copies."""
        settings = self._settings()
        return with_copies(images, settings.copies, settings.turned_below or 0) if settings.copies else images
