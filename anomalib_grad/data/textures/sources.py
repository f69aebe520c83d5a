# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Normal pictures of the generated textures: crops of scikit-image's bundled CC0 photographs, and a rendered plate."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .plate import plate

Image = NDArray[np.uint8]  # (h, w, 3) RGB
Mask = NDArray[np.bool_]  # (h, w)
Part = Literal["train", "test"]

# Share of the source picture's width that training crops come from; test crops come from the rest.
TRAIN_SHARE = 0.6


@dataclass(frozen=True)
class Photo:
    """A grey photograph of scikit-image, coloured through a scale from dark to light.

    Attributes:
        name: Function of ``skimage.data``; CC0 according to its documentation.
        scale: Grey values with the colours that they become.
        upright: Whether gravity or perspective forbid turning it upside down.
    """

    name: str
    scale: tuple[tuple[int, tuple[int, int, int]], ...]
    upright: bool


PHOTOS = {
    "brick": Photo("brick", ((40, (62, 34, 30)), (100, (150, 82, 66)), (180, (214, 202, 188))), upright=True),
    "grass": Photo("grass", ((0, (14, 26, 8)), (120, (92, 126, 58)), (255, (222, 230, 170))), upright=True),
    "gravel": Photo("gravel", ((0, (18, 16, 14)), (128, (134, 128, 122)), (255, (240, 238, 232))), upright=False),
}
PLATE = "plate"
CATEGORIES = (*sorted(PHOTOS), PLATE)


@cache
def source(category: str) -> Image:
    """The whole coloured photograph of a category, ``(512, 512, 3)`` uint8."""
    photo = PHOTOS[category]
    import skimage.data  # noqa: PLC0415  # registration imports this file in every program that uses anomalib

    grey = np.asarray(getattr(skimage.data, photo.name)())
    levels = grey.astype(np.float64) if grey.dtype == np.uint8 else grey * 255.0
    values = [value for value, _ in photo.scale]
    channels = [np.interp(levels, values, [colour[c] for _, colour in photo.scale]) for c in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def crop(category: str, part: Part, size: int, rng: Generator) -> Image:
    """Draw a normal picture.

    Args:
        category: One of :data:`CATEGORIES`.
        part: Training and test crops come from disjoint parts of the photograph.
        size: Height and width in pixels, at most 192.
        rng: Source of chance.

    Returns:
        The picture, ``(size, size, 3)`` uint8.
    """
    if category == PLATE:
        return relight(plate(size, int(rng.integers(2**63))), rng)
    photo, whole = PHOTOS[category], source(category)
    border = round(TRAIN_SHARE * whole.shape[1])
    left, right = (0, border) if part == "train" else (border, whole.shape[1])
    x = int(rng.integers(left, right - size + 1))
    y = int(rng.integers(0, whole.shape[0] - size + 1))
    picture = whole[y : y + size, x : x + size]
    if rng.random() < 0.5:  # noqa: PLR2004
        picture = picture[:, ::-1]
    if not photo.upright:
        picture = np.rot90(picture, int(rng.integers(4)))
    return relight(picture, rng)


def relight(picture: Image, rng: Generator) -> Image:
    """Vary exposure a little, and light one side slightly more than the other."""
    height, width = picture.shape[:2]
    x, y = np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height)[:, None]
    light = rng.normal(1, 0.04) + rng.normal(0, 0.05) * x + rng.normal(0, 0.05) * y
    return np.clip(np.round(picture * light[..., None]), 0, 255).astype(np.uint8)
