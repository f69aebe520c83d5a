# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Two generated products that informed no choice: a freely rotated texture, and a part in changing light.

python examples/study/generated.py FOLDER     writes them in MVTec AD's layout
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from anomalib_grad.data.textures.defects import hole, scratch, stain

Pixels = NDArray[np.uint8]
SIZE = 256
COUNTS = {"train/good": 120, "test/good": 40}
DEFECTS_EACH = 15
STRENGTH = (0.08, 0.3)
"""Range of a defect's opacity: at full strength, every method finds all defects."""


def weave(rng: Generator) -> Pixels:
    """Draw a woven fabric at a random angle."""
    turn, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[:SIZE, :SIZE]
    u, v = (np.cos(turn) * x + np.sin(turn) * y) / 7 + phase[0], (-np.sin(turn) * x + np.cos(turn) * y) / 7 + phase[1]
    over = np.sin(u) * np.sin(v) > 0
    thread = np.where(over, np.abs(np.sin(u)), np.abs(np.sin(v)))
    colour = np.where(over[..., None], (176.0, 160.0, 128.0), (142.0, 132.0, 112.0))
    noise = cv2.GaussianBlur(rng.normal(0, 30, (SIZE, SIZE)), (0, 0), 1.2)
    return to_pixels(colour * (0.55 + 0.45 * thread[..., None]) + noise[..., None])


def nut(rng: Generator) -> Pixels:
    """Draw a hexagon nut at a random position and angle on an empty background, under random light."""
    scale = 4
    picture = np.full((scale * SIZE, scale * SIZE, 3), 206.0)
    centre, turn = scale * (SIZE / 2 + rng.uniform(-18, 18, 2)), rng.uniform(0, 2 * np.pi)
    angles = turn + np.arange(6) * np.pi / 3
    corners = centre + scale * 78 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillPoly(picture, [corners.round().astype(np.int32)], (124, 122, 118))
    middle = (int(centre[0]), int(centre[1]))
    for radius, tone in ((62, 148), (44, 96), (38, 206)):
        cv2.circle(picture, middle, scale * radius, (tone, tone, tone), thickness=-1, lineType=cv2.LINE_AA)
    small = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    slope = rng.normal(0, 0.08, 2)
    light = rng.uniform(0.85, 1.15) * (1 + slope[0] * x + slope[1] * y)
    return to_pixels(np.asarray(small) * light[..., None] + rng.normal(0, 2.5, (SIZE, SIZE, 1)))


def to_pixels(values: NDArray[np.float64]) -> Pixels:
    """Round and clip to 8 bits."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


PRODUCTS: dict[str, Callable[[Generator], Pixels]] = {"nut": nut, "weave": weave}
DEFECTS = {"hole": hole, "scratch": scratch, "stain": stain}


def write(root: Path) -> None:
    """Write all products below ``root``, with exact masks of the defects; the images are the same every time."""
    for number, (name, draw) in enumerate(PRODUCTS.items()):
        rng = np.random.default_rng(number)
        for kind, count in (COUNTS | {f"test/{defect}": DEFECTS_EACH for defect in DEFECTS}).items():
            folder, defect = root / name / kind, DEFECTS.get(Path(kind).name)
            folder.mkdir(parents=True, exist_ok=True)
            for image in range(count):
                picture = draw(rng)
                if defect is not None:
                    spoilt, mask = defect(picture, name, rng)
                    picture = to_pixels(picture + rng.uniform(*STRENGTH) * (spoilt.astype(float) - picture))
                    masks = root / name / "ground_truth" / folder.name
                    masks.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{image:03d}_mask.png")
                Image.fromarray(picture).save(folder / f"{image:03d}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
