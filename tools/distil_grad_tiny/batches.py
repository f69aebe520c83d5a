# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Augmented training crops; each batch depends only on seed and step, so that a resumed run sees the same crops."""

import cv2
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from .pictures import Image, load_pictures, pyramid
from .procedural import render

# crop size in pixels and crops per batch, with a similar number of pixels per batch
SIZES = ((96, 64), (128, 36), (192, 16))
POOL = 192
REFRESH_EVERY = 4


class CropSource:
    """Draws batches of crops from bundled images and from a slowly renewed pool of procedural ones.

    Args:
        seed: Random seed.
        pool: Number of procedural images in memory; one is replaced every ``REFRESH_EVERY`` steps.
        sizes: Crop sizes with their batch sizes; one is drawn for each step.
        grain_from: First step whose pool contains images of grain.
    """

    def __init__(
        self, seed: int, pool: int = POOL, sizes: tuple[tuple[int, int], ...] = SIZES, *, grain_from: int = 0
    ) -> None:
        self.seed = seed
        self.grain_from = grain_from
        self.sizes = sizes
        self.pictures = [pyramid(picture) for picture in load_pictures()]
        # an image is drawn in proportion to the square root of its area: large ones have more content
        areas = np.array([np.sqrt(levels[0].shape[0] * levels[0].shape[1]) for levels in self.pictures])
        self.weights = areas / areas.sum()
        self.pool: list[list[Image]] = [[] for _ in range(pool)]
        self.drawn = [(-1, False)] * pool

    def batch(self, step: int) -> Tensor:
        """Return the crops of one step, ``(B, 3, size, size)`` float32 in [0, 1]."""
        self._renew(step)
        rng = np.random.default_rng([self.seed, 1, step])
        size, count = self.sizes[rng.integers(len(self.sizes))]
        crops = np.stack([self._crop(size, rng) for _ in range(count)])  # (B, size, size, 3)
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
        return _mix(_recolour(images, rng), rng)

    def _renew(self, step: int) -> None:
        """Bring the pool to its state at ``step``: slot i holds the newest image k with k = i modulo the pool size."""
        newest = len(self.pool) - 1 + step // REFRESH_EVERY
        grain = step >= self.grain_from
        for slot in range(len(self.pool)):
            wanted = newest - (newest - slot) % len(self.pool)
            if self.drawn[slot] != (wanted, grain):
                self.pool[slot] = pyramid(render(np.random.default_rng([self.seed, 0, wanted]), grain=grain))
                self.drawn[slot] = (wanted, grain)

    def _crop(self, size: int, rng: Generator) -> Image:
        if rng.random() < 0.6:  # noqa: PLR2004
            levels = self.pictures[rng.choice(len(self.pictures), p=self.weights)]
        else:
            levels = self.pool[rng.integers(len(self.pool))]
        largest = 0.95 * min(levels[0].shape[:2]) / size
        zoom = np.exp(rng.uniform(np.log(min(0.35, largest)), np.log(min(3.0, largest))))  # source pixels per pixel
        level = int(np.clip(np.floor(np.log2(max(zoom, 1.0))), 0, len(levels) - 1))
        source, zoom = levels[level], zoom / 2**level
        turn = rng.uniform(0, 2 * np.pi) if rng.random() < 0.4 else rng.normal(0, 0.1)  # noqa: PLR2004
        stretch = np.exp(rng.normal(0, 0.15))
        flip = rng.choice([-1, 1])
        linear = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear = linear @ np.diag([flip * stretch, 1 / stretch])
        margin = np.minimum(zoom * size / 2, np.array(source.shape[1::-1]) / 2)
        centre = rng.uniform(margin, np.array(source.shape[1::-1]) - margin)
        offset = centre - linear @ np.full(2, size / 2)
        matrix = np.column_stack([linear, offset])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(source, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        if rng.random() < 0.15:  # noqa: PLR2004
            crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.5, 2))
        return np.asarray(crop, dtype=np.uint8)


def _per_image(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).view(-1, 1, 1, 1)


def _recolour(images: Tensor, rng: Generator) -> Tensor:
    """Jitter hue, saturation, contrast, brightness and gamma of each image; make some grey, inverted or noisy."""
    count = len(images)
    grey = images.mean(dim=1, keepdim=True)  # (B, 1, H, W)
    saturation = rng.uniform(0.3, 1.8, count)
    coloured = _per_image(rng.random(count) > 0.25)  # noqa: PLR2004
    images = grey + (images - grey) * _per_image(saturation) * coloured
    tint = torch.from_numpy(rng.normal(0, 0.06, (count, 3, 1, 1)).astype(np.float32)) * coloured
    if rng.random() < 0.3:  # noqa: PLR2004
        images = images[:, torch.from_numpy(rng.permutation(3))]
    centre = images.mean(dim=(1, 2, 3), keepdim=True)
    images = centre + (images - centre) * _per_image(np.exp(rng.normal(-0.15, 0.45, count)))
    images = images + _per_image(rng.normal(0, 0.1, count)) + tint
    inverted = _per_image(rng.random(count) < 0.05)  # noqa: PLR2004
    images = images + inverted * (1 - 2 * images)
    images = images.clamp(0, 1) ** _per_image(np.exp(rng.normal(0, 0.25, count)))
    amount = _per_image((rng.random(count) < 0.3) * rng.uniform(0, 0.06, count))  # noqa: PLR2004
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), dtype=np.float32))
    return (images + amount * noise).clamp(0, 1)


def _mix(images: Tensor, rng: Generator) -> Tensor:
    """Blend a fifth of the images with others (mixup), and paste rectangles of others into half of them (cutmix)."""
    count, size = len(images), images.shape[-1]
    partners = images[torch.from_numpy(rng.permutation(count))]
    share = _per_image((rng.random(count) < 0.2) * rng.uniform(0, 0.5, count))  # noqa: PLR2004
    mixed = images * (1 - share) + partners * share
    for index in np.flatnonzero(rng.random(count) < 0.5):  # noqa: PLR2004
        height, width = (int(size * rng.uniform(0.15, 0.8)) for _ in range(2))
        top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
        area = (slice(None), slice(top, top + height), slice(left, left + width))
        mixed[index][area] = partners[index][area]
    return mixed
