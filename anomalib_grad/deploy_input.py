# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What an exported model may be given, as the batch that it takes."""

from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image

from .data.pixels import rgb_pixels
from .data.reading import read_pixels

_COLOURS = 3
_DIMENSIONS = {3, 4}
_NUMBERS = "biuf"
"""NumPy's kinds of truth values, integers and real numbers."""


def as_batch(image: str | Path | np.ndarray | Image | torch.Tensor) -> np.ndarray:
    """Give images as a batch whose values do not depend on what else is in it.

    Args:
        image: File or Pillow image, read by the rules of ``data/pixels.py``, or RGB pixels, alone or several: of shape
            ``(H, W, 3)`` or ``(3, H, W)``, where only arrays 3 pixels wide are taken for the former. Integers of 16
            unsigned bits lie in [0, 65535], all others in [0, 255]; floating-point values in [0, 1] or [0, 255].

    Returns:
        RGB, float32 in [0, 1], shape ``(B, H, W, 3)``. The caller's pixels are left as they were.

    Raises:
        UnreadableImageError: If a file cannot be read; names it.
        TypeError: If it is something else.
        ValueError: If there are no pixels, or they have another shape, are no real numbers, or lie outside of that.
    """
    if isinstance(image, str | Path):
        return read_pixels(image)[np.newaxis]
    if isinstance(image, Image):
        if 0 in image.size:
            raise ValueError(f"Pass an image that has pixels, not one of {image.width} x {image.height}.")
        return rgb_pixels(image)[np.newaxis]
    if isinstance(image, torch.Tensor):
        if image.is_meta or image.is_quantized or image.layout is not torch.strided:
            raise ValueError("Pass a dense tensor that holds the pixels, not a sparse, quantised or meta one.")
        floating = image.is_floating_point()  # bfloat16 is unknown to numpy
        return in_unit_range(channels_last((image.float() if floating else image).numpy(force=True), tensor=True))
    if not isinstance(image, np.ndarray):
        raise TypeError(f"Pass the path of an image, a Pillow image, an array or a tensor, not {image!r:.60}.")
    if image.dtype.kind not in _NUMBERS or isinstance(image, np.ma.MaskedArray):
        raise ValueError(f"Pass pixels as real numbers, not {type(image).__name__} of {image.dtype}.")
    return in_unit_range(channels_last(image, tensor=False))


def channels_last(pixels: np.ndarray, *, tensor: bool) -> np.ndarray:
    """View pixels as ``(B, H, W, 3)``."""
    if pixels.ndim not in _DIMENSIONS or _COLOURS not in {pixels.shape[-1], pixels.shape[-3]} or pixels.size == 0:
        raise ValueError(
            f"Pass RGB pixels of shape (H, W, 3), (3, H, W), (B, H, W, 3) or (B, 3, H, W), not {pixels.shape}."
        )
    batch = pixels if pixels.ndim == max(_DIMENSIONS) else pixels[np.newaxis]
    first = batch.shape[1] == _COLOURS and (tensor or batch.shape[-1] != _COLOURS)
    return batch.transpose(0, 2, 3, 1) if first else batch


def in_unit_range(pixels: np.ndarray) -> np.ndarray:
    """Scale pixels to float32 in [0, 1], by their type; only floating-point ones by the largest value of each image."""
    values = pixels.astype(np.float32)
    if pixels.dtype == np.uint16:
        return values / np.iinfo(np.uint16).max
    if pixels.dtype == np.uint8:
        return values / np.iinfo(np.uint8).max
    low, high = float(values.min()), values.max(axis=(1, 2, 3), keepdims=True)  # not a number if any is not
    integers = pixels.dtype.kind in "iu"
    doubtful = (high > np.iinfo(np.uint8).max) | (not integers and (high > 1) & (high < 2))  # noqa: PLR2004
    if not low >= 0 or not (high == high).all() or doubtful.any():  # noqa: PLR0124  # of NaN
        found = (high[doubtful] if doubtful.any() else high).max()
        raise ValueError(f"Pass pixels in [0, 1] or in [0, 255], not from {low:.4g} to {found:.4g}; clamp them.")
    return np.where(high > int(not integers), values / np.iinfo(np.uint8).max, values)
