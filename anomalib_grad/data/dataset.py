# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Several categories' datasets read as one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataset, ImageItem
from anomalib.data.utils import LabelName
from PIL import Image
from torchvision.transforms.v2 import Transform

from .dataclasses import CategoryImageBatch, CategoryImageItem


class MultiCategoryDataset(AnomalibDataset):
    """Joins one dataset per category; each image is read by the dataset it came from.

    ``samples`` is the joined frame of all images, sorted by path, with these columns besides anomalib's: ``category``,
    ``has_mask`` (whether the image has a ground truth mask; normal images of a category with masks do), ``part`` and
    ``row`` (where the image stands among the joined datasets).

    Args:
        parts: The dataset of each category.

    Raises:
        ValueError: If a dataset of a category with masks has an anomalous image without one.
    """

    def __init__(self, parts: Mapping[str, AnomalibDataset]) -> None:
        self.parts = list(parts.values())
        super().__init__(augmentations=None if not self.parts else self.parts[0].augmentations)
        frames = [_frame(name, index, part) for index, (name, part) in enumerate(parts.items())]
        self.samples = _joined(frames)

    @property
    def augmentations(self) -> Transform | None:
        """What is applied to images and masks when they are read; setting it sets it for every category."""
        return self.parts[0].augmentations

    @augmentations.setter
    def augmentations(self, augmentations: Transform | None) -> None:
        for part in self.parts:
            part.augmentations = augmentations

    @property
    def categories(self) -> list[str]:
        """Sorted names of the categories."""
        return sorted(self.samples["category"].unique())

    @property
    def groups(self) -> list[int]:
        """For each image which ground truth it has: images of one number can share a batch."""
        labelled = self.samples["label_index"] != int(LabelName.UNKNOWN)
        return (2 * labelled.astype(int) + self.samples["has_mask"].astype(int)).tolist()

    def __getitem__(self, index: int) -> CategoryImageItem:
        """Read an image.

        Args:
            index: Row of ``samples``.

        Returns:
            The image with its category; ``gt_mask`` is ``None`` in a category without masks.

        Raises:
            ValueError: If the image or its mask cannot be read; names the file.
            TypeError: If the category's dataset does not return images.
        """
        sample = self.samples.iloc[index]
        try:
            item = self.parts[sample["part"]][int(sample["row"])]
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG files
            raise _unreadable(sample["image_path"], sample["mask_path"], error) from error
        if not isinstance(item, ImageItem):
            raise TypeError(f"category '{sample['category']}' gives {type(item).__name__}; join image datasets only")
        values: dict[str, Any] = {field.name: getattr(item, field.name) for field in fields(item)}
        return CategoryImageItem(**{**values, "mask_path": sample["mask_path"], "category": sample["category"]})

    def __add__(self, other_dataset: AnomalibDataset) -> "MultiCategoryDataset":  # type: ignore[override]
        """Join with the images of another dataset of several categories."""
        if not isinstance(other_dataset, MultiCategoryDataset):
            raise TypeError(
                "a MultiCategoryDataset can only be joined with another one; use MultiCategory to join others"
            )
        joined = MultiCategoryDataset({})
        joined.parts = [*self.parts, *other_dataset.parts]
        shifted = other_dataset.samples.assign(part=other_dataset.samples["part"] + len(self.parts))
        joined.samples = _joined([self.samples, shifted])
        return joined

    @property
    def collate_fn(self) -> Callable[[list[CategoryImageItem]], CategoryImageBatch]:
        """Joins items into a ``CategoryImageBatch``."""
        return CategoryImageBatch.collate


def _frame(category: str, index: int, part: AnomalibDataset) -> pd.DataFrame:
    samples = part.samples.reset_index(drop=True)
    labels = samples["label_index"].astype("int64")
    has_mask = (labels != int(LabelName.UNKNOWN)) & (part.task == TaskType.SEGMENTATION)
    mask_path = samples["mask_path"].fillna("").astype(str) if "mask_path" in samples else ""
    frame = samples.assign(
        label_index=labels,
        mask_path=mask_path,
        category=category,
        has_mask=has_mask,
        part=index,
        row=range(len(samples)),
    )
    unmasked = frame[has_mask & (labels == int(LabelName.ABNORMAL)) & (frame["mask_path"] == "")]
    if len(unmasked):
        raise ValueError(
            f"category '{category}': {len(unmasked)} anomalous images have no mask although others have "
            f"(first: {unmasked['image_path'].iloc[0]}); add their masks, or remove all masks of this category",
        )
    return frame


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    columns = ["image_path", "split", "label_index", "mask_path", "category", "has_mask", "part", "row"]
    frames = [frame for frame in frames if len(frame)]
    samples = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    masked = bool(samples["has_mask"].any())
    samples.attrs["task"] = (TaskType.SEGMENTATION if masked else TaskType.CLASSIFICATION).value
    return samples


def _unreadable(image_path: str, mask_path: str, error: Exception) -> ValueError:
    kind, path = "image", image_path
    if mask_path and _opens(image_path):
        kind, path = "mask", mask_path
    return ValueError(f"could not read {kind} '{path}': {error}; remove or replace it")


def _opens(path: str) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


def check_mask_sizes(samples: pd.DataFrame) -> None:
    """Check that every anomalous image and its mask have the same size. Reads the files' headers only.

    Args:
        samples: Frame of a ``MultiCategoryDataset``.

    Raises:
        ValueError: Names the first pair that differs, or the file that cannot be read.
    """
    for image_path, mask_path in samples.loc[samples["mask_path"] != "", ["image_path", "mask_path"]].to_numpy():
        try:
            with Image.open(image_path) as image, Image.open(mask_path) as mask:
                sizes = image.size, mask.size
        except (OSError, SyntaxError) as error:
            raise _unreadable(image_path, mask_path, error) from error
        if sizes[0] != sizes[1]:
            (width, height), (mask_width, mask_height) = sizes
            raise ValueError(
                f"image '{image_path}' is {width} x {height} but its mask '{mask_path}' is {mask_width} x "
                f"{mask_height}; replace the one that is wrong",
            )
