# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Defects for the generated textures, each with its exact mask: no pixel outside the mask is changed."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .sources import CATEGORIES, HOLES, PLATE, Image, Mask, crop, plate, relight

Field = NDArray[np.float64]
Pixels = NDArray[np.uint8] | NDArray[np.float64]

# colours of the ground below a missing element: mortar, soil, sand
GROUNDS = {"brick": (186.0, 176.0, 164.0), "grass": (98.0, 76.0, 56.0), "gravel": (164.0, 142.0, 110.0)}
FINE = 4  # thin strokes are drawn this much larger and averaged


def scratch(picture: Image, _category: str, rng: Generator) -> tuple[Image, Mask]:
    """Draw a bent scratch of one to three strokes, bright or dark, with a rim of the other tone beside it."""
    size = len(picture)
    fine = np.zeros((FINE * size, FINE * size), np.uint8)
    turn, start = rng.uniform(0, np.pi), rng.uniform(0.25, 0.75, 2)
    for _ in range(rng.integers(1, 4)):
        points = _curve(start + rng.normal(0, 0.06, 2), turn + rng.normal(0, 0.15), rng.uniform(0.45, 0.8), rng)
        width = max(round(FINE * size / 128 * rng.uniform(1.4, 2.8)), 1)
        cv2.polylines(
            fine, [np.round(points * FINE * size).astype(np.int32)], isClosed=False, color=255, thickness=width
        )
    alpha: Field = np.asarray(cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA), dtype=np.float64) / 255
    shade = 0.4 * _shifted(alpha, 1, 1) * (1 - alpha)
    tone = np.array([232.0, 229.0, 222.0]) if rng.random() < 0.6 else np.array([24.0, 22.0, 20.0])  # noqa: PLR2004
    return _composed(picture, _blend(_blend(picture, 255 - tone, shade), tone, 0.85 * alpha), (alpha > 0) | (shade > 0))


def stain(picture: Image, _category: str, rng: Generator) -> tuple[Image, Mask]:
    """Draw a spilt liquid: the texture shows through, darkened and tinted, darkest at the rim."""
    shape = _blob(len(picture), rng.uniform(0.14, 0.22), rng)
    depth = np.clip(shape, 0, 0.35) / 0.35  # 0 at the rim, 1 inside
    strength = (depth > 0) * (0.7 + 0.25 * np.exp(-((depth - 0.15) ** 2) / 0.02)) * np.clip(depth * 8, 0, 1)
    liquid = np.array([(0.4, 0.24, 0.1), (0.12, 0.12, 0.14), (0.15, 0.25, 0.6), (0.6, 0.12, 0.14)][rng.integers(4)])
    stained = picture * (1 - strength[..., None] * (1 - liquid))
    return _composed(picture, stained, strength > 0)


def hole(picture: Image, _category: str, rng: Generator) -> tuple[Image, Mask]:
    """Draw a ragged hole: dark inside, shadow below the upper edge, broken rim."""
    shape = _blob(len(picture), rng.uniform(0.07, 0.13), rng, ragged=True)
    inside = np.clip(shape * 12, 0, 1)
    rim = np.exp(-(((shape + 0.1) / 0.08) ** 2)) * (shape > -0.25)  # noqa: PLR2004
    depth = _shifted(inside, len(picture) // 24, 0) * inside
    dark = np.array([46.0, 40.0, 36.0]) * (1 - 0.6 * depth)[..., None] + rng.normal(0, 4, (*shape.shape, 1))
    broken = _blend(picture, np.array([215.0, 208.0, 198.0]), 0.55 * rim)
    return _composed(picture, _blend(broken, dark, inside), (inside > 0) | (rim > 0.02))  # noqa: PLR2004


def foreign(picture: Image, category: str, rng: Generator) -> tuple[Image, Mask]:
    """Draw a piece of another category's texture on top, with a soft shadow; half of them have a similar colour."""
    others = [other for other in CATEGORIES if other not in {category, PLATE}]
    other: Pixels = crop(others[rng.integers(len(others))], "test", len(picture), rng)
    if rng.random() < 0.5:  # noqa: PLR2004
        grey = other.mean(axis=-1, keepdims=True)
        other = picture.mean(axis=(0, 1)) * grey / grey.mean()
    shape = _blob(len(picture), rng.uniform(0.12, 0.18), rng)
    inside = np.clip(shape * 15, 0, 1)
    reach = max(len(picture) // 40, 1)
    shadow = cv2.GaussianBlur(_shifted(inside, reach, reach), (0, 0), 1.0) * (inside < 1)
    shadow = np.where(shadow > 0.05, shadow, 0)  # noqa: PLR2004
    shaded = picture * (1 - 0.5 * shadow[..., None])
    return _composed(picture, _blend(shaded, other, inside), (inside > 0) | (shadow > 0))


def missing(picture: Image, category: str, rng: Generator) -> tuple[Image, Mask]:
    """Remove an element: bare ground in place of stones or grass, a hole that was not punched."""
    size = len(picture)
    if category == PLATE:
        seed, light = int(rng.integers(2**63)), int(rng.integers(2**63))
        at = (int(rng.integers(HOLES[0])), int(rng.integers(HOLES[1])))
        lacking = plate(size, seed, missing=at)
        mask = (plate(size, seed) != lacking).any(axis=-1)
        return relight(lacking, np.random.default_rng(light)), mask
    shape = _blob(size, rng.uniform(0.14, 0.22), rng)
    inside = np.clip(shape * 10, 0, 1)
    fine, coarse = (cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), width) for width in (0.7, size / 16))
    grain = fine / fine.std() * 7 + coarse / coarse.std() * 6
    ground = np.array(GROUNDS[category]) * rng.uniform(0.85, 1.1) + grain[..., None]
    return _composed(picture, _blend(picture, ground, inside), inside > 0)


Defect = Callable[[Image, str, Generator], tuple[Image, Mask]]
DEFECTS: dict[str, Defect] = {draw.__name__: draw for draw in (foreign, hole, missing, scratch, stain)}


def _blend(picture: Pixels, colour: Pixels, alpha: Field) -> Field:
    return np.asarray(picture * (1 - alpha[..., None]) + colour * alpha[..., None])


def _shifted(field: Field, down: int, right: int) -> Field:
    """Shift a field; new pixels are zero."""
    height, width = field.shape
    return np.pad(field, ((down, 0), (right, 0)))[:height, :width]


def _composed(picture: Image, result: Field, mask: Mask) -> tuple[Image, Mask]:
    changed = np.clip(np.round(result), 0, 255).astype(np.uint8)
    return np.where(mask[..., None], changed, picture), mask


def _curve(start: Field, turn: float, length: float, rng: Generator) -> Field:
    """Return points (n, 2) along a line that bends slowly, as shares of the image's size."""
    bend = rng.normal(0, 0.03)
    turns = turn + bend * np.arange(24) + rng.normal(0, 0.04, 24).cumsum()
    steps = length / 24 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.asarray(start - steps.sum(axis=0) / 2 + steps.cumsum(axis=0))


def _blob(size: int, radius: float, rng: Generator, *, ragged: bool = False) -> Field:
    """Draw an irregular shape inside the image: positive inside, zero on its outline, about 1 in the middle.

    ``radius``, its mean radius, is a share of the image's ``size``; a ragged outline has fine corners.
    """
    centre = rng.uniform(radius + 0.08, 1 - radius - 0.08, 2)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    turn, stretch = rng.uniform(0, np.pi), np.exp(rng.normal(0, 0.2))
    dx, dy = x - centre[0], y - centre[1]
    along = (dx * np.cos(turn) + dy * np.sin(turn)) * stretch
    across = (dy * np.cos(turn) - dx * np.sin(turn)) / stretch
    angle = np.arctan2(across, along)
    waves = range(2, 15 if ragged else 6)
    outline = sum(
        (rng.normal(0, 0.16 / wave**0.7) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)) for wave in waves), 1.0
    )
    return np.asarray(outline - np.hypot(along, across) / radius)
