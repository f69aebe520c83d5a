# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of files, Pillow images, arrays and tensors to the input batch of an exported model."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from anomalib_grad.data.pixels import EIGHT_BIT_STEP, at_most_white, resized, rgb_pixels, scaled
from anomalib_grad.data.read_or_refuse import DEFAULT_FORMAT, FileFormat, explain_read_errors, read_pixels

if TYPE_CHECKING:
    import openvino as ov

Frame = str | Path | np.ndarray | Image | torch.Tensor
SINGLE_IMAGE_TYPES = (str, bytes, Path, Image)
"""Types that are a single image, or none, although Python may be able to iterate over them."""
_DIMENSIONS = range(2, 5)
_CHANNELS = {1, 3}
_NUMBERS = "biuf"
"""NumPy's dtype kinds of booleans, integers and floating-point numbers."""
_ORDERS = {"RGB", "BGR"}


class FrameFormat(NamedTuple):
    """Format of a camera's frames, as far as the frames do not declare it, and their target size.

    Attributes:
        size: Height and width of the model's input; frames are resized to it before they are converted to float32.
            ``None`` leaves resizing to the model.
        files: Settings that files do not declare; the bits apply to arrays and tensors as well.
        channel_order: Channel order of arrays and tensors, ``"RGB"`` or ``"BGR"``.
    """

    size: tuple[int, int] | None = None
    files: FileFormat = DEFAULT_FORMAT
    channel_order: str = "RGB"

    def checked(self) -> "FrameFormat":
        """Return self, or raise a ValueError that lists the possible values of an invalid one."""
        if self.channel_order not in _ORDERS:
            raise ValueError(f'channel_order must be "RGB" or "BGR", got {self.channel_order!r}.')
        return self


_AS_THEY_ARE = FrameFormat()


def input_size(model: "ov.Model") -> tuple[int, int] | None:
    """Return height and width of a model exported with ``input_size``; ``None`` if it accepts any size."""
    height, width = model.input(0).partial_shape[2], model.input(0).partial_shape[3]
    return (height.get_length(), width.get_length()) if height.is_static and width.is_static else None


def as_batch(image: Frame, frames: FrameFormat = _AS_THEY_ARE) -> np.ndarray:
    """Convert one or several images to a batch; the values of an image do not depend on the others.

    Args:
        image: File or Pillow image, read by the rules of ``data/pixels.py``, or grey or RGB pixels of one or several
            images: shape ``(H, W)``, ``(H, W, C)``, ``(C, H, W)``, ``(B, H, W, C)`` or ``(B, C, H, W)`` with one or
            three channels C. If the shape is ambiguous, channels come last in arrays and first in tensors. Values of
            uint16 are in [0, 65535], or in the range of ``frames.files.bits``; other integers in [0, 255];
            floating-point values in [0, 1] or [0, 255].
        frames: Format of the pixels.

    Returns:
        RGB, float32 in [0, 1], shape ``(B, H, W, 3)``. The caller's pixels are not modified.

    Raises:
        UnreadableImageError: If a file or a Pillow image cannot be read.
        TypeError: If ``image`` is of another type.
        ValueError: If there are no pixels, or if they have another shape, type or range.
    """
    if isinstance(image, str | Path):
        return read_pixels(image, frames.size, frames.files)[np.newaxis]
    if isinstance(image, Image):
        if 0 in image.size:
            raise ValueError(f"Pass an image with at least one pixel, not one of {image.width} x {image.height}.")
        file = getattr(image, "filename", "")
        with explain_read_errors(f"image '{file}'" if file else "the image"):  # Pillow decodes files lazily
            return rgb_pixels(image, frames.size, frames.files.bits)[np.newaxis]
    is_tensor = isinstance(image, torch.Tensor)
    if isinstance(image, torch.Tensor):
        if image.is_meta or image.is_quantized or image.layout is not torch.strided:
            raise ValueError("Pass a dense tensor that holds the pixels, not a sparse, quantised or meta one.")
        image = (image.float() if image.is_floating_point() else image).numpy(force=True)  # NumPy has no bfloat16
    if not isinstance(image, np.ndarray):
        raise TypeError(f"Pass the path of an image, a Pillow image, an array or a tensor, not {image!r:.60}.")
    if image.dtype.kind not in _NUMBERS or isinstance(image, np.ma.MaskedArray):
        raise ValueError(f"Pass pixels as real numbers, not {type(image).__name__} of {image.dtype}.")
    shape, first = layout(image.shape, tensor=is_tensor)
    pixels = image.reshape(-1, *shape[-3:])
    small = in_unit_range(pixels.transpose(0, 2, 3, 1) if first else pixels, frames)
    if small.shape[-1] == 1:
        return np.repeat(small, 3, axis=-1)
    return small[..., ::-1] if frames.channel_order == "BGR" else small


def size_of(image: np.ndarray | Image | torch.Tensor) -> tuple[int, int]:
    """Return height and width of one or several images; raise a ValueError for shapes that :func:`as_batch` rejects."""
    if isinstance(image, Image):
        return image.height, image.width
    shape, first = layout(tuple(image.shape), tensor=isinstance(image, torch.Tensor))
    return (shape[-2], shape[-1]) if first else (shape[-3], shape[-2])


def layout(pixels: tuple[int, ...], *, tensor: bool) -> tuple[tuple[int, ...], bool]:
    """Return the shape of pixels with a dimension for channels, and whether channels come first.

    Raises:
        ValueError: If there are no pixels, or neither one nor three channels.
    """
    grey = len(pixels) == _DIMENSIONS[0]
    shape = (*pixels, 1) if grey else pixels
    ends = len(shape) in _DIMENSIONS and (shape[-3] in _CHANNELS, shape[-1] in _CHANNELS)
    if not ends or not any(ends) or 0 in pixels:
        raise ValueError(
            f"Pass pixels of shape (H, W), (H, W, C), (C, H, W), (B, H, W, C) or (B, C, H, W) with one or three "
            f"channels C, grey or colour, not of shape {pixels}."
        )
    return shape, ends[0] and not (ends[1] and (grey or not tensor))


def in_unit_range(pixels: np.ndarray, frames: FrameFormat) -> np.ndarray:
    """Scale pixels to float32 in [0, 1] by the range of their type; floating-point ones by each image's maximum.

    8-bit pixels are resized to the model's input size before they are converted.
    """
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)  # some cameras send big-endian pixels
    if pixels.dtype == np.uint8:
        return at_most_white(resized(pixels, frames.size).astype(np.float32) * EIGHT_BIT_STEP)  # as files are
    if pixels.dtype == np.uint16:
        return at_most_white(resized(scaled(pixels, frames.files.bits), frames.size))
    values = pixels.astype(np.float32)
    low, high = float(values.min()), values.max(axis=(1, 2, 3), keepdims=True)  # NaN if any value is
    integers = pixels.dtype.kind in "iu"
    doubtful = (high > np.iinfo(np.uint8).max) | (not integers and (high > 1) & (high < 2))  # noqa: PLR2004
    if not low >= 0 or not (high == high).all() or doubtful.any():  # noqa: PLR0124  # of NaN
        found = (high[doubtful] if doubtful.any() else high).max()
        raise ValueError(f"Pass pixels in [0, 1] or in [0, 255], not from {low:.4g} to {found:.4g}; clamp them.")
    small = resized(values, frames.size)
    return np.where(high > int(not integers), small / np.iinfo(np.uint8).max, small)
