# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Small products and small models for tests that run anomalib's engine or command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from anomalib_grad.settings import GROUPS

if TYPE_CHECKING:
    from anomalib_grad import Grad

DEVIATION = "golden deviation"
"""Property under which a golden test notes a row of the table that the suite prints."""

TINY: dict[str, Any] = {
    "backbone": "mobilenetv2_050",
    "pre_trained": False,
    "image_size": (64, 64),
    "fusion": "small",
    "method": {"num_blocks": 1},
    "map": {"smoothing_window": 5, "score_window": 8},
}
"""Arguments of a Grad that trains an epoch of a few images in a second."""


def tiny(arguments: dict[str, Any] = TINY, **changed: Any) -> dict[str, Any]:
    """Arguments of a Grad with some changed; each setting goes to the group that it belongs to."""
    result = dict(arguments)
    for name, value in changed.items():
        group = next((group for group, kind in GROUPS.items() if name in kind.__dataclass_fields__), None)
        if group is None:
            result[name] = value
        else:
            result[group] = {**result.get(group, {}), name: value}
    return result


def as_if_trained(model: "Grad") -> "Grad":
    """Give a model other weights than those of the beginning, where what it thinks of images does not matter."""
    model.model.head.fusion.recover.weight.data.mul_(2)
    return model


def write_category(folder: Path, *, train: int = 4, good: int = 2, defects: int = 2, side: int = 72) -> Path:
    """Write a category in MVTec AD's layout: noisy stripes whose width and colour follow the category's name.

    A defect, ``test/spot``, is a white square with a mask.
    """
    random = np.random.default_rng(sum(folder.name.encode()))
    colour, width = random.uniform(0.2, 0.8, 3), int(random.integers(3, 9))
    for split, count in (("train/good", train), ("test/good", good), ("test/spot", defects)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            stripes = np.broadcast_to(60 + 80 * (np.arange(side) // width % 2), (side, side))
            pixels = stripes[..., None] * colour + random.normal(0, 6, (side, side, 3))
            if split == "test/spot":
                mask = np.zeros((side, side), dtype=np.uint8)
                mask[20:40, 10 + 5 * number : 30 + 5 * number] = 255
                pixels[mask > 0] = 255
                masks = folder / "ground_truth/spot"
                masks.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(masks / f"{number:03d}_mask.png")
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / f"{number:03d}.png")
    return folder
