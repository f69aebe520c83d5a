# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Images for display, with the same pixels as the model's input."""

from typing import Any

import numpy as np
from PIL import Image

from anomalib_grad.data.pixels import read_wrongly_by_anomalib, rgb_pixels
from anomalib_grad.data.read_or_refuse import DEFAULT_FORMAT, FileFormat
from anomalib_grad.data.unreadable import datasets_of


def hatched(picture: Image.Image, ignored: np.ndarray) -> Image.Image:
    """Hatch the ignored region of an image, given as bool ``(h, w)`` at any resolution."""
    pixels = np.array(picture)
    region = np.asarray(Image.fromarray(ignored.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)) > 0
    rows, columns = np.indices(region.shape)
    stripe = (rows + columns) // 2 % 4
    pixels[region & (stripe == 0)] = 255  # a light line beside a dark one is visible on any background
    pixels[region & (stripe == 1)] = 20
    return Image.fromarray(pixels)


def picture_of(file: Image.Image, size: tuple[int, int], bits: int = DEFAULT_FORMAT.bits) -> Image.Image:
    """Convert an opened image to 8-bit RGB; Pillow's own conversion clips 16-bit values at 255, which is white.

    Args:
        file: The image; a 16-bit one is resized before the conversion to RGB, which takes twelve times its memory.
        size: Height and width of the result.
        bits: Number of bits that a 16-bit file actually uses.
    """
    if read_wrongly_by_anomalib(file):
        return Image.fromarray((255 * rgb_pixels(file, size, bits)).round().astype(np.uint8))
    return file.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS)


def file_format_of(loaders: Any) -> FileFormat:  # noqa: ANN401  # whatever Lightning was given
    """Return the file format that the data sets of a run's loaders declare, or the default."""
    found = (getattr(dataset, "file_format", None) for dataset in datasets_of(loaders))
    return next(filter(None, found), DEFAULT_FORMAT)
