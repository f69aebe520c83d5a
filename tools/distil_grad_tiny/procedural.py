# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Procedural images: textured shapes that occlude each other, gratings, cells, grain, writing.

Noise and "dead leaves" images teach useful features: Baradad et al., "Learning to See by Looking at Noise", 2021.
"""

import cv2
import numpy as np
from numpy.random import Generator

from .pictures import Image

SIZE = 320


def render(rng: Generator, *, grain: bool = True) -> Image:
    """Draw an image, ``(SIZE, SIZE, 3)`` uint8; with ``grain``, about a third of them are grain without shapes."""
    if rng.random() < 0.35 and grain:  # noqa: PLR2004
        return np.clip(_light(_grain(rng), rng), 0, 255).astype(np.uint8)
    picture = _texture(rng)
    kind = rng.random()
    if kind < 0.5:  # noqa: PLR2004
        picture = _leaves(picture, rng, count=int(rng.integers(3, 120)))
    elif kind < 0.75:  # noqa: PLR2004
        picture = _cells(picture, rng)
    if rng.random() < 0.3:  # noqa: PLR2004
        picture = _strokes(picture, rng)
    if rng.random() < 0.5:  # noqa: PLR2004
        picture = _light(picture, rng)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _colour(rng: Generator) -> np.ndarray:
    grey = rng.uniform(0, 255)
    return np.clip(grey + rng.normal(0, rng.choice([5, 60]), 3), 0, 255)


def _noise(rng: Generator) -> np.ndarray:
    """Draw power-law noise (SIZE, SIZE) of zero mean and unit variance, sometimes stretched along one axis."""
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(SIZE), np.fft.fftfreq(SIZE) * rng.choice([1.0, 1.0, 6.0])))
    exponent = rng.uniform(0.4, 2.2)
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) / np.maximum(frequency, 1 / SIZE) ** exponent
    noise = np.fft.irfft2(spectrum, s=(SIZE, SIZE))
    noise = (noise - noise.mean()) / (noise.std() + 1e-8)
    return noise.T if rng.random() < 0.5 else noise  # noqa: PLR2004


def _grating(rng: Generator) -> np.ndarray:
    """Draw stripes or a lattice (SIZE, SIZE) in [-1, 1], bent by smooth noise."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    angle, waves = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4), np.log(60)))
    bend = rng.choice([0.0, 0.02, 0.1]) * cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)), (0, 0), 24) * 24
    phase = 2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle) + bend)
    stripes = np.sin(phase)
    if rng.random() < 0.4:  # noqa: PLR2004
        stripes = stripes * np.sin(2 * np.pi * waves * (y * np.cos(angle) - x * np.sin(angle) + bend))
    return np.tanh(stripes * rng.choice([1.0, 5.0]))


def _texture(rng: Generator) -> np.ndarray:
    """Draw a texture (SIZE, SIZE, 3), float32, about in [0, 255]."""
    base, other = _colour(rng), _colour(rng)
    kind = rng.random()
    if kind < 0.15:  # noqa: PLR2004
        field = np.zeros((SIZE, SIZE))
    elif kind < 0.7:  # noqa: PLR2004
        field = _noise(rng) * 0.35
    else:
        field = _grating(rng) * 0.5 + _noise(rng) * rng.uniform(0, 0.2)
    contrast = rng.uniform(0.05, 1.0)
    picture = base + np.clip(field * contrast, -1, 1)[..., None] * (other - base)
    return (picture + rng.normal(0, rng.choice([0, 2, 8]), picture.shape)).astype(np.float32)


def _grain(rng: Generator) -> np.ndarray:
    """Draw fine grain as of brushed or cast metal, paper or cloth, sometimes with spots and hairlines."""
    field = np.zeros((SIZE, SIZE))
    for _ in range(rng.integers(1, 4)):
        along, across = np.exp(rng.uniform(np.log(0.4), np.log([6.0, 2.0])))
        noise = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)), (0, 0), sigmaX=along, sigmaY=across)
        field += noise / noise.std() * rng.uniform(0.3, 1)
    picture = _colour(rng) + (field / field.std() * np.exp(rng.uniform(np.log(3), np.log(35))))[..., None]
    for _ in range(rng.integers(0, 4)):
        mask = _shape(rng, rng.uniform(0, SIZE, 2), rng.uniform(2, 14))
        alpha = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 2))[..., None]
        picture = picture * (1 - alpha) + _colour(rng) * alpha
    for _ in range(rng.integers(0, 3)):
        alpha = _hairline(rng)[..., None] * rng.uniform(0.2, 1)
        picture = picture * (1 - alpha) + _colour(rng) * alpha
    return (picture if rng.random() < 0.5 else picture.transpose(1, 0, 2)).astype(np.float32)  # noqa: PLR2004


def _hairline(rng: Generator) -> np.ndarray:
    """Draw a crack or scratch (SIZE, SIZE) in [0, 1]: a thin, winding line."""
    count, angle = int(rng.integers(10, 80)), rng.uniform(0, 2 * np.pi)
    turns = angle + np.cumsum(rng.normal(0, rng.uniform(0, 0.4), count))
    steps = rng.uniform(2, 6) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    points = rng.uniform(0, SIZE, 2) + np.cumsum(steps, axis=0)
    mask = np.zeros((SIZE, SIZE), np.float32)
    cv2.polylines(mask, [points.astype(np.int32)], isClosed=False, color=1.0, thickness=int(rng.integers(1, 3)))
    return cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 1.2))


def _leaves(picture: np.ndarray, rng: Generator, count: int) -> np.ndarray:
    """Cover an image with ellipses, rectangles, polygons and rings of power-law sizes, textured and shaded."""
    textures = [_texture(rng) for _ in range(3)]
    smallest = rng.uniform(4, 30)
    for _ in range(count):
        radius = min(smallest * rng.random() ** -0.7, 130.0)
        mask = _shape(rng, rng.uniform(0, SIZE, 2), radius)
        shift = rng.integers(0, SIZE, 2)
        fill = np.roll(textures[rng.integers(3)], shift, axis=(0, 1)) if rng.random() < 0.4 else _colour(rng)  # noqa: PLR2004
        alpha = cv2.GaussianBlur(mask, (0, 0), rng.choice([0.5, 0.8, 2.0]))[..., None]
        if rng.random() < 0.3:  # noqa: PLR2004  # a soft shadow
            shadow = cv2.GaussianBlur(np.roll(mask, (3, 3), axis=(0, 1)), (0, 0), 4)[..., None]
            picture = picture * (1 - 0.5 * shadow)
        picture = picture * (1 - alpha) + fill * alpha
    return picture.astype(np.float32)


def _shape(rng: Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.float32)
    x, y = (int(value) for value in centre)
    kind, angle = rng.integers(4), rng.uniform(0, 360)
    axes = (max(int(radius), 1), max(int(radius * rng.uniform(0.3, 1)), 1))
    if kind == 0:
        cv2.ellipse(mask, (x, y), axes, angle, 0, 360, 1.0, -1)
    elif kind == 1:
        box = cv2.boxPoints(((float(x), float(y)), (2.0 * axes[0], 2.0 * axes[1]), angle))
        cv2.fillPoly(mask, [box.astype(np.int32)], 1.0)
    elif kind == 2:  # noqa: PLR2004
        turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        reach = radius * rng.uniform(0.5, 1, len(turns))
        corners = np.stack([x + reach * np.cos(turns), y + reach * np.sin(turns)], axis=1)
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0)
    else:
        cv2.ellipse(mask, (x, y), axes, angle, 0, 360, 1.0, max(int(radius * 0.2), 1))
    return mask


def _cells(picture: np.ndarray, rng: Generator) -> np.ndarray:
    """Overlay Voronoi cells: tiles, stones or bubbles with seams."""
    count = int(np.exp(rng.uniform(np.log(10), np.log(400))))
    seeds = np.ones((SIZE, SIZE), np.uint8)
    seeds[rng.integers(0, SIZE, count), rng.integers(0, SIZE, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tones = rng.normal(0, rng.uniform(5, 50), (labels.max() + 1, 3))
    dome = (distance / max(float(distance.max()), 1.0))[..., None] * rng.uniform(-150, 80)
    return (picture + tones[labels] + dome).astype(np.float32)


def _strokes(picture: np.ndarray, rng: Generator) -> np.ndarray:
    """Draw thin lines and text."""
    canvas = np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8))  # OpenCV draws text only on 8-bit images
    for _ in range(rng.integers(1, 25)):
        start, end = rng.integers(0, SIZE, 2).tolist(), rng.integers(0, SIZE, 2).tolist()
        colour = _colour(rng).tolist()
        if rng.random() < 0.6:  # noqa: PLR2004
            cv2.line(canvas, start, end, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
        else:
            letters = "".join(chr(code) for code in rng.integers(48, 90, rng.integers(1, 7)))
            cv2.putText(canvas, letters, start, int(rng.integers(0, 5)), rng.uniform(0.4, 2.5), colour, 2)
    return canvas.astype(np.float32)


def _light(picture: np.ndarray, rng: Generator) -> np.ndarray:
    """Apply uneven lighting: a ramp and a highlight."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) / SIZE
    ramp = 1 + rng.uniform(-0.5, 0.5) * (x - 0.5) + rng.uniform(-0.5, 0.5) * (y - 0.5)
    spot = np.exp(-((x - rng.random()) ** 2 + (y - rng.random()) ** 2) / rng.uniform(0.005, 0.3))
    return (picture * ramp[..., None] + 120 * rng.random() * spot[..., None]).astype(np.float32)
