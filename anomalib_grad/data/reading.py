# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Reads image and mask files by the rules of ``pixels.py``; whatever is wrong with one, the error names it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from .pixels import check_mode, mask_pixels, rgb_pixels


class UnreadableImageError(ValueError):
    """An image or mask that cannot be read; the message names the file, what is wrong, and what to do."""


@contextmanager
def opened(path: str | Path, kind: str = "image") -> Iterator[Image.Image]:
    """Open an image file, its pixels not yet read, for a block in which every failure is its fault.

    Raises:
        UnreadableImageError: In place of whatever is raised in the block.
    """
    try:
        refuse_pipes(Path(path))
        with Image.open(path) as image:
            yield image
    except Exception as error:
        cause = str(error) or type(error).__name__
        advice = "check the path" if isinstance(error, FileNotFoundError) else "remove or replace it"
        raise UnreadableImageError(f"could not read {kind} '{path}': {cause}; {advice}") from error


def refuse_pipes(path: Path) -> None:
    """Refuse what would be waited for, or read, without end.

    Raises:
        OSError: If it is not there, or a pipe or a device.
    """
    mode = path.stat().st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise OSError(f"'{path}' is a pipe or a device, no file; remove it")


def read_pixels(path: str | Path) -> np.ndarray:
    """Read an image.

    Args:
        path: The file.

    Returns:
        RGB, float32 in [0, 1], shape ``(H, W, 3)``.

    Raises:
        UnreadableImageError: If that is impossible.
    """
    with opened(path) as image:
        return rgb_pixels(image)


def read_image(path: str | Path) -> tv_tensors.Image:
    """Read an image as ``read_pixels`` does, channels first: shape ``(3, H, W)``."""
    return tv_tensors.Image(torch.from_numpy(read_pixels(path)).permute(2, 0, 1).contiguous())


def read_mask(path: str | Path) -> tv_tensors.Mask:
    """Read a mask.

    Args:
        path: The file.

    Returns:
        uint8, 1 for anomalous pixels and 0 for normal ones, shape ``(H, W)``.

    Raises:
        UnreadableImageError: If that is impossible.
    """
    with opened(path, "mask") as mask:
        return tv_tensors.Mask(torch.from_numpy(mask_pixels(mask)).to(torch.uint8))


def check_image(path: str | Path) -> None:
    """Decode an image and forget it.

    Raises:
        UnreadableImageError: If ``read_image`` would fail.
    """
    with opened(path) as image:
        check_mode(image)
        image.load()
