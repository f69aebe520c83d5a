# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Dataset that joins the datasets of several categories."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset, ImageItem
from anomalib.data.utils import LabelName
from torchvision.transforms.v2 import Transform
from torchvision.tv_tensors import Mask

from .dataclasses import CategoryImageBatch, CategoryImageItem
from .read_or_refuse import DEFAULT_FORMAT, FileFormat, UnreadableImageError, check_image, read_image, read_mask
from .resizing import resized_to


class MultiCategoryDataset(AnomalibDataset):
    """Join one dataset per category; images are read by the rules of ``pixels.py``.

    A dataset with its own reader keeps it, such as MVTec LOCO's, which joins masks.

    ``samples`` is the joined frame of all images, sorted by path. It adds these columns to anomalib's: ``category``,
    ``has_mask`` (whether the image has a ground truth mask, as normal images of a category with masks do), and ``part``
    and ``row`` (the image's dataset and its row there).

    Raises:
        ValueError: If a dataset of a category with masks has an anomalous image without one.
    """

    def __init__(self, parts: Mapping[str, AnomalibDataset], file_format: FileFormat = DEFAULT_FORMAT) -> None:
        self.parts = list(parts.values())
        self.file_format = file_format
        super().__init__(augmentations=self.parts[0].augmentations)
        self.samples = _joined([_frame(name, index, part) for index, (name, part) in enumerate(parts.items())])

    @property
    def augmentations(self) -> Transform | None:
        """Transform applied to images and masks when they are read; setting it sets it for every category."""
        return self.parts[0].augmentations

    @augmentations.setter
    def augmentations(self, augmentations: Transform | None) -> None:
        for part in self.parts:
            part.augmentations = augmentations

    collate_fn = CategoryImageBatch.collate

    @property
    def categories(self) -> list[str]:
        """Sorted names of the categories."""
        return sorted(self.samples["category"].unique())

    @property
    def groups(self) -> list[int]:
        """Kind of ground truth of each image, as a number; images of one kind can share a batch."""
        labelled = self.samples["label_index"] != int(LabelName.UNKNOWN)
        return (2 * labelled.astype(int) + self.samples["has_mask"].astype(int)).tolist()

    def __getitem__(self, index: int) -> CategoryImageItem:
        """Read an image.

        Returns:
            The image with its category; ``gt_mask`` is ``None`` in a category without masks.

        Raises:
            UnreadableImageError: If the image or its mask cannot be read; names the file.
        """
        sample = self.samples.iloc[index]
        part, row = self.parts[sample["part"]], int(sample["row"])
        has_own_reader = type(part).__getitem__ is not AnomalibDataset.__getitem__
        item = _read_by(part, row, sample) if has_own_reader else read_item(part, row, self.file_format)
        return CategoryImageItem(**vars(item) | {"mask_path": sample["mask_path"], "category": sample["category"]})

    def __add__(self, other_dataset: AnomalibDataset) -> "MultiCategoryDataset":  # type: ignore[override]
        """Join with another ``MultiCategoryDataset``."""
        if not isinstance(other_dataset, MultiCategoryDataset):
            raise TypeError(
                "a MultiCategoryDataset can only be joined with another one; use MultiCategory to join others"
            )
        shifted = other_dataset.samples.assign(part=other_dataset.samples["part"] + len(self.parts))
        return self._of([*self.parts, *other_dataset.parts], self.samples, shifted)

    def without(self, categories: Sequence[str]) -> "MultiCategoryDataset":
        """Return the images of all other categories, read in the same way."""
        return self._of(self.parts, self.samples[~self.samples["category"].isin(categories)])

    def _of(self, parts: list[AnomalibDataset], *frames: pd.DataFrame) -> "MultiCategoryDataset":
        other = copy(self)
        other.parts, other.samples = parts, _joined(frames)
        return other


def read_item(dataset: AnomalibDataset, row: int, files: FileFormat) -> ImageItem:
    """Read the image of a row and its mask as ``AnomalibDataset`` does, with this package's readers.

    If the transform begins with the model's resize, which anomalib adds to the augmentations, the image is read at that
    size.

    Raises:
        UnreadableImageError: If the image or its mask cannot be read; names the file.
    """
    sample = dataset.samples.iloc[row]
    label = LabelName(sample["label_index"])
    image, mask = read_image(sample["image_path"], resized_to(dataset.augmentations), files), None
    if dataset.task == TaskType.SEGMENTATION and label != LabelName.UNKNOWN:
        normal = label == LabelName.NORMAL
        empty = torch.zeros(image.shape[-2:], dtype=torch.uint8)
        mask = Mask(empty) if normal else read_mask(sample["mask_path"], files)
    if dataset.augmentations is not None:
        if mask is None:
            image = dataset.augmentations(image)
        else:
            image, mask = dataset.augmentations(image, mask)
    return ImageItem(
        image=image,
        gt_mask=mask,
        gt_label=None if label == LabelName.UNKNOWN else torch.tensor(int(label)),
        image_path=sample["image_path"],
        mask_path=sample["mask_path"],
    )


def _read_by(part: AnomalibDataset, row: int, sample: pd.Series) -> ImageItem:
    """Let a dataset read its item, and find the file at fault if that fails."""
    try:
        return cast("ImageItem", part[row])
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG files
        check_image(sample["image_path"])
        if sample["mask_path"] and Path(sample["mask_path"]).is_file():
            read_mask(sample["mask_path"])
        raise UnreadableImageError(f"could not read image '{sample['image_path']}': {error}; replace it") from error


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
            f"category '{category}': {len(unmasked)} anomalous images have no mask, but others have "
            f"(first: {unmasked['image_path'].iloc[0]}); add their masks, or remove all masks of this category",
        )
    return frame


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    samples = pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
    masked = bool(samples["has_mask"].any())
    samples.attrs["task"] = (TaskType.SEGMENTATION if masked else TaskType.CLASSIFICATION).value
    return samples
