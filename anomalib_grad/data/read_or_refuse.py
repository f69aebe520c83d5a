# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Readers of image and mask files by the rules of ``pixels.py``; every error names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from threading import Lock
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from anomalib_grad.files.refusals import GIVE_RIGHT, message

from .pixels import check_values, mask_pixels, rgb_pixels

_GUARD = Lock()
_BITS = range(10, 17)


class UnreadableImageError(ValueError):
    """An image or mask cannot be read; the message names the file, what is wrong, and what to do."""


@dataclass(frozen=True)
class FileFormat:
    """Properties that image files do not state themselves, and their largest size.

    Attributes:
        bits: Bits that 16-bit files use: 12 for those of a camera that counts to 4095.
        max_pixels: Pixels of the largest file to read; ``None`` keeps the limit of Pillow's guard.

    Raises:
        ValueError: If a value is out of range; says what is possible.
    """

    bits: int = 16
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in _BITS:
            raise ValueError(f"bits must be {_BITS[0]} to {_BITS[-1]}, got {self.bits!r}; 8-bit files need no bits.")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels!r}.")


DEFAULT_FORMAT = FileFormat()


@contextmanager
def open_image(path: str | Path, kind: str = "image", max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open an image file without decoding it, for a block whose every failure is blamed on the file.

    ``kind`` is what messages call the file. Without ``max_pixels`` Pillow's guard against decompression bombs sets the
    limit.

    Raises:
        UnreadableImageError: In place of any error in the block.
    """
    with explain_read_errors(f"{kind} '{path}'"):
        refuse_pipes(Path(path))
        with open_up_to(path, max_pixels) as image:
            yield image


@contextmanager
def explain_read_errors(name: str) -> Iterator[None]:
    """Blame every failure of a block on the image called ``name``.

    Raises:
        UnreadableImageError: In place of any error in the block.
    """
    try:
        yield
    except UnreadableImageError:  # of another file, such as the mask of the one that is open
        raise
    except Exception as error:
        cause = message(error) or type(error).__name__
        if isinstance(error, Image.DecompressionBombError):
            cause += " (to allow more, set max_pixels of MultiCategory, PredictImages or CategoryOpenVINOInferencer)"
        advice = "check the path" if isinstance(error, FileNotFoundError) else "remove or replace it"
        if isinstance(error, PermissionError):
            advice = GIVE_RIGHT
        if isinstance(error, IsADirectoryError):
            advice = "give an image in it, or rename the folder"
        raise UnreadableImageError(f"could not read {name}: {cause}; {advice}") from error


def open_up_to(path: str | Path | BinaryIO, max_pixels: int | None) -> Image.Image:
    """Open an image of at most ``max_pixels``, or of what Pillow's guard allows.

    Raises:
        Image.DecompressionBombError: If the image has more.
    """
    if max_pixels is None:
        return Image.open(path)
    with _GUARD:  # Pillow has one limit for the whole process
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.width * image.height > max_pixels:
        image.close()
        raise Image.DecompressionBombError(f"its {image.width} x {image.height} pixels exceed max_pixels={max_pixels}")
    return image


def refuse_pipes(path: Path) -> None:
    """Refuse pipes and devices, which could block or never end.

    Raises:
        OSError: If the path does not exist, or is a pipe or a device.
    """
    mode = path.stat().st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise OSError(f"'{path}' is a pipe or a device, not a file; remove it")


def read_pixels(path: str | Path, size: tuple[int, int] | None, files: FileFormat) -> np.ndarray:
    """Read an image as an array.

    Args:
        path: The file.
        size: Height and width to resize to, antialiased, before converting to float32; ``None`` keeps those of the
            image.
        files: Properties that the file does not state itself.

    Returns:
        RGB, float32 in [0, 1], shape ``(H, W, 3)``.

    Raises:
        UnreadableImageError: If that is impossible.
    """
    with open_image(path, max_pixels=files.max_pixels) as image:
        return rgb_pixels(image, size, files.bits)


def read_image(
    path: str | Path, size: tuple[int, int] | None = None, files: FileFormat = DEFAULT_FORMAT
) -> tv_tensors.Image:
    """Read an image as :func:`read_pixels` does, channels first: shape ``(3, H, W)``."""
    return tv_tensors.Image(torch.from_numpy(read_pixels(path, size, files)).permute(2, 0, 1).contiguous())


def read_mask(path: str | Path, files: FileFormat = DEFAULT_FORMAT) -> tv_tensors.Mask:
    """Read a mask.

    Returns:
        uint8, 1 for anomalous pixels and 0 for normal ones, shape ``(H, W)``.

    Raises:
        UnreadableImageError: If that is impossible.
    """
    with open_image(path, "mask", files.max_pixels) as mask:
        return tv_tensors.Mask(torch.from_numpy(mask_pixels(mask)).to(torch.uint8))


def check_image(path: str | Path, files: FileFormat = DEFAULT_FORMAT) -> None:
    """Decode an image and discard it.

    Raises:
        UnreadableImageError: If :func:`read_image` would fail.
    """
    with open_image(path, max_pixels=files.max_pixels) as image:
        check_values(image, files.bits)
