# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Ignore masks: white pixels of ``ignore.png`` in a product's folder are not judged in that product's images.

The file is read as a mask (``pixels.py``); it may have any size and is scaled to the image.
"""

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from anomalib_grad.files.refusals import check_names_are_text

from .listing import has_image_name
from .masks import IGNORE_FILE
from .read_or_refuse import read_mask


def kept_pixels(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read the pixels to judge in a product's images.

    Args:
        path: Mask, white where nothing is judged.
        size: Height and width of the images; ``None`` keeps those of the mask.

    Returns:
        bool, shape (H, W); a pixel is judged if the mask leaves more than half of it.

    Raises:
        ValueError: If no pixel is judged.
        UnreadableImageError: If the file cannot be read.
    """
    ignored = read_mask(path).as_subclass(Tensor).float()  # (H, W)
    if size is not None:
        ignored = functional.interpolate(ignored[None, None], size, mode="area")[0, 0]
    kept = ignored < 0.5  # noqa: PLR2004
    if not kept.any():
        raise ValueError(f"{path} ignores the whole image; paint only the pixels to ignore white, and all others black")
    return kept


def mask_in(folder: Path) -> Path | None:
    """Find the ignore mask in a product's folder; a broken link counts too, and fails when it is read.

    Raises:
        ValueError: If an image there has almost that name.
    """
    path = folder / IGNORE_FILE
    if os.path.lexists(path):
        return path
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.stem.lower() == path.stem and has_image_name(PurePath(file.name)):
            raise ValueError(
                f"{file} is not used as an ignore mask under that name; rename it to {IGNORE_FILE}, or remove it"
            )
    return None


def folder_of(datamodule: Any) -> Path | None:  # noqa: ANN401  # anomalib's, of any class, or none
    """Return the folder of a datamodule's product, where an ignore mask may lie."""
    root = getattr(datamodule, "root", None)
    return None if root is None else Path(root) / datamodule.category


def ignore_masks(datamodule: Any) -> dict[str, Path]:  # noqa: ANN401  # anomalib's, of any class, or none
    """Find the ignore masks of a datamodule by product name; the name is ``""`` if products have no names."""
    if hasattr(datamodule, "ignore_masks"):
        return dict(datamodule.ignore_masks)
    folder = folder_of(datamodule)
    mask = None if folder is None else mask_in(folder)
    return {} if mask is None else {"": mask}


def given_masks(
    ignore: str | Path | Mapping[str, str | Path] | None, folders: Mapping[str, Path | None]
) -> dict[str, Path]:
    """Determine the ignore mask of each product.

    Args:
        ignore: File for all products, or files by product name; ``None`` gives none.
        folders: Folder of each product, where a mask may lie; ``None`` if there is no folder.

    Returns:
        Mask of each product that has one; masks in ``ignore`` win over those in folders.

    Raises:
        ValueError: If one is given for an unknown product, or a name is not text.
    """
    if isinstance(ignore, str | Path):
        ignore = dict.fromkeys(folders, ignore)
    check_names_are_text(ignore or (), "ignore")
    named = {name: Path(path) for name, path in (ignore or {}).items()}
    unknown = sorted(named.keys() - folders.keys())
    if unknown:
        raise ValueError(f"ignore names an unknown product, {unknown[0]!r}; the products are: {', '.join(folders)}")
    found = {name: mask_in(folder) for name, folder in folders.items() if folder is not None}
    return {name: mask for name, mask in {**found, **named}.items() if mask is not None}


def exclude_ignored(batch: Any, ignored: Tensor) -> dict[str, Any]:  # noqa: ANN401  # an ImageBatch, typed by no base
    """Return a batch's map and ground truth with ignored pixels set to normal, with a score of at most 0.

    An anomalous image whose marked pixels are all ignored becomes normal.

    Args:
        batch: Judged images with ``anomaly_map``, ``gt_mask`` and ``gt_label``, as far as they are known.
        ignored: Ignored pixels, bool, shape (B, H, W) or (1, H, W).
    """
    fields: dict[str, Any] = {}
    if batch.anomaly_map is not None:
        fields["anomaly_map"] = batch.anomaly_map.masked_fill(ignored, min(0.0, float(batch.anomaly_map.min())))
    if batch.gt_mask is not None:
        fields["gt_mask"] = batch.gt_mask & ~ignored
        if batch.gt_label is not None:
            forgiven = batch.gt_mask.flatten(1).any(dim=1) & ~fields["gt_mask"].flatten(1).any(dim=1)  # (B,)
            fields["gt_label"] = batch.gt_label & ~forgiven
    return fields


class IgnoreMasks:
    """Look up the ignored pixels of a batch's images."""

    def __init__(self, datamodule: Any = None) -> None:  # noqa: ANN401  # anomalib's, of any class, or none
        self._datamodule = datamodule
        self._kept: dict[tuple[str, tuple[int, int]], Tensor] = {}

    def pixels(self, model: LightningModule, batch: ImageBatch) -> Tensor | None:
        """Return the ignored pixels: those that the model ignored, else those in the data's ignore masks.

        Args:
            model: The model; if it ignores regions itself, it has a method ``ignored_pixels``.
            batch: Judged images that name their categories.

        Returns:
            bool, shape (B, H, W) as the images' maps or masks; ``None`` if nothing is ignored.
        """
        own = getattr(model, "ignored_pixels", None)
        if own is not None:
            found = own(batch)
            return None if found is None else found.expand(len(batch), -1, -1)
        shown = batch.gt_mask if batch.anomaly_map is None else batch.anomaly_map
        masks = ignore_masks(self._datamodule)
        if shown is None or masks.keys().isdisjoint(batch.category):  # type: ignore[attr-defined]
            return None
        size = (shown.shape[-2], shown.shape[-1])
        kept = [self._of(name, size, masks) for name in batch.category]  # type: ignore[attr-defined]
        return ~torch.stack(kept).to(shown.device)

    def _of(self, name: str, size: tuple[int, int], masks: dict[str, Path]) -> Tensor:
        """Return the pixels (H, W) to judge in images of a category."""
        if (name, size) not in self._kept:
            mask = masks.get(name)
            self._kept[name, size] = torch.ones(size, dtype=torch.bool) if mask is None else kept_pixels(mask, size)
        return self._kept[name, size]
