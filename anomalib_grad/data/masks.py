# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pairing of masks with images by name, and checks of masks by their headers."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import pandas as pd
from PIL import Image

from .pixels import is_lossy
from .read_or_refuse import FileFormat, open_image

logger = logging.getLogger(__name__)

MASKS = "ground_truth"
"""Folder of a product's masks in MVTec AD's layout."""
IGNORE_FILE = "ignore.png"
_SUFFIX = "_mask"
_ORIENTATION, _UPRIGHT = 0x0112, 1  # EXIF tag and value


def is_mask(path: PurePath) -> bool:
    """Tell whether a path, relative to a product's folder or one above it, is a mask by its place or name."""
    return MASKS in path.parts or path.name == IGNORE_FILE


def masks_by_name(masks: Iterable[Path], folder: Path) -> dict[PurePath, Path]:
    """Key masks by their path within the folder, without suffix: ``crack/000_mask``."""
    return {mask.relative_to(folder).with_suffix(""): mask for mask in masks}


def take_mask(masks: dict[PurePath, Path], image: PurePath) -> Path | None:
    """Take an image's mask out of ``masks``: the one with its name, or its name and ``_mask``.

    Args:
        masks: Result of :func:`masks_by_name`; loses the mask that is taken.
        image: The image's path within the images' folder, which is the mask's within the masks' folder.
    """
    name = image.with_suffix("")
    return masks.pop(name, None) or masks.pop(name.with_name(name.name + _SUFFIX), None)


def check_no_masks_among(images: Sequence[Path]) -> None:
    """Check that no mask would be taken for an image.

    Raises:
        ValueError: If ``x_mask`` lies beside ``x``; names the first.
    """
    names = {image.with_suffix("") for image in images}
    found = [image for image in images if image.stem.endswith(_SUFFIX) and image.with_name(image.stem[:-5]) in names]
    if found:
        raise ValueError(
            f"{len(found)} masks lie among the images and would be used as images (first: {found[0]}); move them "
            "to the folder of masks"
        )


def _is_turned(image: Image.Image) -> bool:
    """Tell whether EXIF asks for a turn that is ignored; never in TIFF files, which are turned as asked."""
    if image.format == "TIFF" or "exif" not in image.info:
        return False
    return image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT


def check_masks(samples: pd.DataFrame, files: FileFormat) -> None:
    """Check that every anomalous image has the size of its mask; warn of other problems in the headers.

    Raises:
        ValueError: Names the first pair that differs in size, or the file that cannot be read.
    """
    lossy, turned = [], []
    for image_path, mask_path in samples.loc[samples["mask_path"] != "", ["image_path", "mask_path"]].to_numpy():
        limit = files.max_pixels
        with open_image(image_path, max_pixels=limit) as image, open_image(mask_path, "mask", limit) as mask:
            sizes, turns = (image.size, mask.size), [_is_turned(file) for file in (image, mask)]
            if is_lossy(mask):
                lossy.append(mask_path)
        if sizes[0] != sizes[1]:
            (width, height), (mask_width, mask_height) = sizes
            hint = " (EXIF asks to rotate one of them, but this is ignored)" if any(turns) else ""
            raise ValueError(
                f"image '{image_path}' is {width} x {height} but its mask '{mask_path}' is {mask_width} x "
                f"{mask_height}{hint}; replace the one that is wrong",
            )
        if turns[0] != turns[1]:
            turned.append(image_path)
    if lossy:
        logger.warning(
            "%d masks are in a lossy format (first: %s): pixels above half of a mask's largest value count as "
            "anomalous; save masks as PNG.",
            len(lossy),
            lossy[0],
        )
    if turned:
        logger.warning(
            "EXIF asks to rotate %d images but not their masks, or the reverse (first: %s): pixels are read as stored; "
            "save both upright if they do not match.",
            len(turned),
            turned[0],
        )
