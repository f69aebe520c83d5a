# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's image dataclasses, extended by each image's category.

A batch has ground truth for all of its images or for none: ``gt_mask`` (and ``gt_label``) is ``None`` unless every
image has it, and anomalib's pixel metrics then skip the batch. So that no mask is lost, the evaluation loaders of
``MultiCategory`` never mix images with and without masks in a batch (see ``sampling.py``).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, cast

from anomalib.data import ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem


@dataclass
class NumpyCategoryImageItem(NumpyImageItem):
    """One image with its category, as numpy arrays."""

    category: str | None = None


@dataclass
class NumpyCategoryImageBatch(NumpyImageBatch):
    """A batch of images with their categories, as numpy arrays."""

    category: list[str] | None = None
    item_class: ClassVar[type[NumpyCategoryImageItem]] = NumpyCategoryImageItem


@dataclass
class CategoryImageItem(ImageItem):
    """anomalib's ``ImageItem`` (image ``(3, H, W)``, values in [0, 1]) with ``category`` (str)."""

    category: str | None = None
    numpy_class: ClassVar[type[NumpyImageItem]] = NumpyCategoryImageItem

    def __post_init__(self) -> None:
        """Check that the category is a name."""
        if self.category is not None and not isinstance(self.category, str):
            raise TypeError(f"category must be a str, got {type(self.category).__name__}")


@dataclass
class CategoryImageBatch(ImageBatch):
    """anomalib's ``ImageBatch`` (image ``(B, 3, H, W)``) with ``category`` (list of B str)."""

    category: list[str] | None = None
    item_class: ClassVar[type[ImageItem]] = CategoryImageItem
    numpy_class: ClassVar[type[NumpyImageBatch]] = NumpyCategoryImageBatch

    def __post_init__(self) -> None:
        """Check that there is one name per image."""
        names = self.category
        if names is None:
            return
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"category must be a list of str with one name per image, got {names!r}")
        if self.image is not None and len(names) != len(self.image):
            raise ValueError(f"category has {len(names)} names for {len(self.image)} images; give one for each")

    @classmethod
    def collate(cls, items: list[CategoryImageItem]) -> "CategoryImageBatch":  # type: ignore[override]
        """Join items into a batch; images of different sizes are resized to the largest one.

        Only fields that every item has are kept. anomalib's collate takes the fields of the first item and fails if
        another item lacks a mask. ``mask_path`` is empty for images without a mask file.
        """
        filled: list[set[str]] = [{key for key, value in vars(item).items() if value is not None} for item in items]
        partial = set().union(*filled) - filled[0].intersection(*filled)
        complete: list[ImageItem] = [replace(item, **dict.fromkeys(partial)) for item in items] if partial else [*items]
        batch = cast("CategoryImageBatch", super().collate(complete))
        if "mask_path" in partial:
            batch.mask_path = [item.mask_path or "" for item in items]
        return batch
