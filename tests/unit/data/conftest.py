# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Products with generated images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_product(
    folder: Path,
    *,
    train: int = 4,
    good: int = 2,
    defects: int = 3,
    size: tuple[int, int] = (48, 40),
    masks: bool = True,
    suffix: str = ".png",
) -> Path:
    """Write a product in MVTec AD's layout: striped images, defects are bright squares with a mask."""
    rng = np.random.default_rng(len(folder.name))
    width, height = size

    def write(path: Path, square: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.tile(np.linspace(40, 160, width), (height, 1)) + rng.normal(0, 4, (height, width))
        if square:
            pixels[8:20, 10:24] = 250
        Image.fromarray(np.stack([pixels.clip(0, 255).astype(np.uint8)] * 3, axis=-1)).save(path)

    for split, label, count in (("train", "good", train), ("test", "good", good), ("test", "crack", defects)):
        for number in range(1, count + 1):
            write(folder / split / label / f"{number}{suffix}", label == "crack")
            if label == "crack" and masks:
                mask = np.zeros((height, width), dtype=np.uint8)
                mask[8:20, 10:24] = 255
                path = folder / "ground_truth" / label / f"{number}_mask.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
    return folder


@pytest.fixture
def product() -> Callable[..., Path]:
    return write_product


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three products of unequal number and size; ``cup`` has no masks, ``notes`` is no product."""
    root = tmp_path / "shop"
    write_product(root / "ant", train=3, good=2, defects=11)
    write_product(root / "bee", train=6, good=3, defects=2, size=(64, 36))
    write_product(root / "cup", train=2, good=1, defects=2, masks=False, suffix=".jpg")
    (root / "notes").mkdir()
    return root
