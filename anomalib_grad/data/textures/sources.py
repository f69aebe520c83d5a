# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Normal images of the generated textures: crops of scikit-image's bundled CC0 photographs, and a rendered plate."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (h, w, 3) RGB
Mask = NDArray[np.bool_]  # (h, w)
Part = Literal["train", "test"]

# Share of the photograph's width for training crops; test crops come from the rest.
TRAIN_SHARE = 0.6


@dataclass(frozen=True)
class Photo:
    """A grey photograph of ``skimage.data`` (CC0 according to its documentation) and its colours.

    Attributes:
        scale: Grey values and the colours that replace them.
        upright: Whether gravity or perspective forbid turning it upside down.
    """

    scale: tuple[tuple[int, tuple[int, int, int]], ...]
    upright: bool


PHOTOS = {
    "brick": Photo(((40, (62, 34, 30)), (100, (150, 82, 66)), (180, (214, 202, 188))), upright=True),
    "grass": Photo(((0, (14, 26, 8)), (120, (92, 126, 58)), (255, (222, 230, 170))), upright=True),
    "gravel": Photo(((0, (18, 16, 14)), (128, (134, 128, 122)), (255, (240, 238, 232))), upright=False),
}
PLATE = "plate"
CATEGORIES = (*sorted(PHOTOS), PLATE)
HOLES = (4, 4)
_METAL = np.array([172.0, 176.0, 182.0])
_HOLE = np.array([38.0, 38.0, 42.0])


@cache
def source(category: str) -> Image:
    """Return the whole coloured photograph of a category, ``(512, 512, 3)`` uint8."""
    photo = PHOTOS[category]
    import skimage.data  # noqa: PLC0415  # registration imports this file in every program that uses anomalib

    grey = getattr(skimage.data, category)()  # (512, 512) uint8
    values, colours = zip(*photo.scale, strict=True)
    channels = [np.interp(grey, values, channel) for channel in zip(*colours, strict=True)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def crop(category: str, part: Part, size: int, rng: Generator) -> Image:
    """Draw a normal image of one of :data:`CATEGORIES`, ``(size, size, 3)`` uint8, with at most 192 pixels a side.

    Training and test crops come from disjoint parts of the photograph.
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


def plate(size: int, seed: int, missing: tuple[int, int] | None = None) -> Image:
    """Render a brushed metal plate with a lattice of round holes.

    Args:
        size: Height and width in pixels.
        seed: Seed of grain and position; plates of one seed differ only in the missing hole.
        missing: Row and column of a hole to leave out.

    Returns:
        The image, ``(size, size, 3)`` uint8, RGB.
    """
    rng = np.random.default_rng(seed)
    pitch = size / HOLES[0]
    radius = 0.28 * pitch
    grain = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), sigmaX=size / 6, sigmaY=0.6)
    grain = grain / grain.std() * 7 + rng.normal(0, 2, (size, size))
    metal = _METAL + grain[..., None]  # (size, size, 3)
    shift = rng.uniform(-0.12, 0.12, 2)
    y, x = np.mgrid[:size, :size] + 0.5
    for hole in np.ndindex(*HOLES):
        if hole == missing:
            continue
        centre = (np.array(hole) + 0.5 + shift) * pitch
        distance = np.hypot(y - centre[0], x - centre[1])
        edge = np.where(distance < radius + 4, np.exp(-(((distance - radius - 1) / 1.2) ** 2)), 0)
        metal += (30 * edge * np.sign(y - centre[0]))[..., None]  # light from above: the lower edge shines
        inside = np.clip(radius - distance + 0.5, 0, 1)[..., None]
        metal = metal * (1 - inside) + _HOLE * inside
    return np.clip(np.round(metal), 0, 255).astype(np.uint8)


def relight(picture: Image, rng: Generator) -> Image:
    """Vary the exposure a little, and light one side slightly more than the other."""
    height, width = picture.shape[:2]
    x, y = np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height)[:, None]
    light = rng.normal(1, 0.04) + rng.normal(0, 0.05) * x + rng.normal(0, 0.05) * y
    return np.clip(np.round(picture * light[..., None]), 0, 255).astype(np.uint8)
