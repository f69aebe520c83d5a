# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Images for people to look at, with the pixels that the model has seen."""

from typing import Any

import numpy as np
from PIL import Image

from anomalib_grad.data.pixels import read_wrongly_by_anomalib, rgb_pixels
from anomalib_grad.data.read_or_refuse import DEFAULT_FORMAT, FileFormat
from anomalib_grad.data.unreadable import datasets_of


def hatched(picture: Image.Image, ignored: np.ndarray) -> Image.Image:
    """Hatch the pixels of a picture that are not judged: ``(h, w)`` bool, of any size."""
    pixels = np.array(picture)
    region = np.asarray(Image.fromarray(ignored.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)) > 0
    rows, columns = np.indices(region.shape)
    stripe = (rows + columns) // 2 % 4
    pixels[region & (stripe == 0)] = 255  # a light line beside a dark one reads on any background
    pixels[region & (stripe == 1)] = 20
    return Image.fromarray(pixels)


def picture_of(file: Image.Image, size: tuple[int, int], bits: int = DEFAULT_FORMAT.bits) -> Image.Image:
    """Give an opened image as RGB of 8 bits; Pillow's own conversion cuts 16 bits off at 255, which is white.

    Args:
        file: The image; one of 16 bits is resized before it is given colours, which take twelve times its memory.
        size: Height and width of the picture.
        bits: Bits that a file of 16 uses.
    """
    if read_wrongly_by_anomalib(file):
        return Image.fromarray((255 * rgb_pixels(file, size, bits)).round().astype(np.uint8))
    return file.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS)


def file_format_of(loaders: Any) -> FileFormat:  # noqa: ANN401  # whatever Lightning was given
    """What the data sets behind a run's loaders say of their files."""
    found = (getattr(dataset, "file_format", None) for dataset in datasets_of(loaders))
    return next(filter(None, found), DEFAULT_FORMAT)
