# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Freely usable images bundled with scikit-image, and their licences."""

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

# Only images whose scikit-image docstring states CC0, public domain or no known copyright restrictions. All are part of
# the installed package: nothing is downloaded.
LICENCES: dict[str, str] = {
    "astronaut": "public domain (NASA)",
    "brick": "CC0 (CC0Textures, Bricks25)",
    "camera": "CC0 (Lav Varshney)",
    "cell": "CC0 (Paul Müller et al.)",
    "chelsea": "CC0 (Stefan van der Walt)",
    "clock": "public domain (Stefan van der Walt)",
    "coffee": "CC0 (Rachel Michetti)",
    "coins": "no known copyright restrictions (Brooklyn Museum)",
    "grass": "CC0 (linolafett, DeviantArt)",
    "gravel": "CC0 (CC0Textures, Gravel04)",
    "horse": "CC0 (Andreas Preuss)",
    "hubble_deep_field": "public domain (NASA)",
    "immunohistochemistry": "no known copyright restrictions (CMMI)",
    "microaneurysms": "CC0 (Andreas Maier)",
    "retina": "CC0 (Mikael Häggström)",
    "rocket": "public domain (SpaceX)",
    "text": "public domain (Wikipedia, Corner.png)",
}

Image = NDArray[np.uint8]  # (h, w, 3) RGB


def load_pictures() -> list[Image]:
    """Read the images of :data:`LICENCES` as RGB, uint8, in that order."""
    return [_as_rgb(getattr(skimage.data, name)()) for name in LICENCES]


def _as_rgb(picture: NDArray[np.generic]) -> Image:
    if picture.dtype == bool:
        picture = picture.astype(np.uint8) * 255
    if picture.dtype != np.uint8:  # skimage reads some grey images as floats in [0, 1]
        picture = np.round(np.asarray(picture, dtype=np.float64) * 255).astype(np.uint8)
    if picture.ndim == 2:  # noqa: PLR2004
        picture = np.repeat(picture[..., None], 3, axis=2)
    return np.ascontiguousarray(picture[..., :3])


def pyramid(picture: Image, levels: int = 3, smallest: int = 96) -> list[Image]:
    """Halve an image repeatedly (Gaussian pyramid), down to at least ``smallest`` pixels per side."""
    result = [picture]
    while len(result) < levels and min(result[-1].shape[:2]) >= 2 * smallest:
        result.append(np.asarray(cv2.pyrDown(result[-1]), dtype=np.uint8))
    return result
