# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A rendered product: a brushed metal plate with a lattice of round holes."""

import cv2
import numpy as np
from numpy.typing import NDArray

HOLES = (4, 4)

_METAL = np.array([172.0, 176.0, 182.0])
_HOLE = np.array([38.0, 38.0, 42.0])


def plate(size: int, seed: int, missing: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Render a plate.

    Args:
        size: Height and width in pixels.
        seed: Decides on grain and position; plates of one seed differ in the missing hole only.
        missing: Row and column of a hole to leave out.

    Returns:
        The picture, ``(size, size, 3)`` uint8, RGB.
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
