# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's image dataclasses, extended by each image's category.

A batch has ground truth for all of its images or for none: ``gt_mask`` (and ``gt_label``) is ``None`` unless every
image has it, and anomalib's pixel metrics then skip the batch. So that no mask is lost, the evaluation loaders of
``MultiCategory`` never mix images with and without masks in a batch (see ``sampling.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from anomalib.data import ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem
from anomalib.data.dataclasses.generic import FieldDescriptor


@dataclass
class _CategoryOfItem:
    # anomalib declares validated fields by a descriptor as default.
    category: FieldDescriptor[str | None] = FieldDescriptor(validator_name="validate_category")  # noqa: RUF009

    @staticmethod
    def validate_category(category: str | None) -> str | None:
        """Accept a name or ``None``."""
        if category is not None and not isinstance(category, str):
            raise TypeError(f"category must be a str, got {type(category).__name__}")
        return category


@dataclass
class _CategoryOfBatch:
    category: FieldDescriptor[list[str] | None] = FieldDescriptor(validator_name="validate_category")  # noqa: RUF009

    @staticmethod
    def validate_category(category: Sequence[str] | None) -> list[str] | None:
        """Accept one name per image or ``None``."""
        if category is None:
            return None
        if isinstance(category, str) or not all(isinstance(name, str) for name in category):
            raise TypeError(f"category must be a list of str with one name per image, got {category!r}")
        return list(category)


@dataclass
class NumpyCategoryImageItem(_CategoryOfItem, NumpyImageItem):
    """One image with its category, as numpy arrays."""


@dataclass
class NumpyCategoryImageBatch(_CategoryOfBatch, NumpyImageBatch):
    """A batch of images with their categories, as numpy arrays."""

    item_class: ClassVar[type[NumpyCategoryImageItem]] = NumpyCategoryImageItem


@dataclass
class CategoryImageItem(_CategoryOfItem, ImageItem):
    """anomalib's ``ImageItem`` (image ``(3, H, W)``, values in [0, 1]) with ``category`` (str)."""

    numpy_class: ClassVar[type[NumpyImageItem]] = NumpyCategoryImageItem


@dataclass
class CategoryImageBatch(_CategoryOfBatch, ImageBatch):
    """anomalib's ``ImageBatch`` (image ``(B, 3, H, W)``) with ``category`` (list of B str)."""

    item_class: ClassVar[type[ImageItem]] = CategoryImageItem
    numpy_class: ClassVar[type[NumpyImageBatch]] = NumpyCategoryImageBatch

    def __post_init__(self) -> None:
        """Check that there is one name per image."""
        if self.category is not None and self.image is not None and len(self.category) != len(self.image):
            raise ValueError(f"category has {len(self.category)} names for {len(self.image)} images; give one for each")

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
