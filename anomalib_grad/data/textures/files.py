# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Files of the generated textures, written once in MVTec AD's folder layout."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from anomalib_grad.files.atomic import folder_beside

from .defects import DEFECTS
from .sources import CATEGORIES, Part, crop

MANIFEST = "textures.json"
LARGEST = 192  # pixels; the test part of a photograph is 205 pixels wide
SMALLEST = 32


@dataclass(frozen=True)
class TexturesSpec:
    """Everything that determines the generated files: arguments of ``Textures`` and the drawing code's version."""

    image_size: int = 128
    n_train: int = 40
    n_test_good: int = 15
    n_defect: int = 5
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        if not SMALLEST <= self.image_size <= LARGEST:
            raise ValueError(f"image_size must be {SMALLEST} to {LARGEST} pixels, got {self.image_size}.")
        if min(self.n_train, self.n_test_good, self.n_defect) < 1:
            raise ValueError("n_train, n_test_good and n_defect must be at least 1.")


def ensure_written(root: Path, spec: TexturesSpec) -> None:
    """Write the images of all categories below ``root`` unless they exist.

    They are written to a temporary folder that is renamed at the end. So an interruption leaves no partial dataset, and
    of several processes that start together one wins.

    Raises:
        ValueError: If ``root`` holds anything but textures of the same ``spec``.
    """
    if _is_written(root, spec):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(root) as folder:
        partial = Path(folder) / root.name
        for category in CATEGORIES:
            _write_category(partial / category, category, spec)
        (partial / MANIFEST).write_text(json.dumps(asdict(spec), indent=2) + "\n")
        try:
            partial.rename(root)
        except OSError:
            if not _is_written(root, spec):  # otherwise another process was faster
                raise


def _is_written(root: Path, spec: TexturesSpec) -> bool:
    manifest = root / MANIFEST
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        if found == asdict(spec):
            return True
        raise ValueError(
            f"{root} holds textures generated with other settings ({found}): choose another root or delete the folder."
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} is not empty, but holds no generated textures: choose another root.")
    return False


def _write_category(folder: Path, category: str, spec: TexturesSpec) -> None:
    normal: dict[Part, int] = {"train": spec.n_train, "test": spec.n_test_good}
    for part, count in normal.items():
        for number in range(count):
            rng = _rng(spec, category, part, "good", number)
            _write(folder / part / "good" / f"{number:03}.png", crop(category, part, spec.image_size, rng))
    for defect, draw in DEFECTS.items():
        for number in range(spec.n_defect):
            rng = _rng(spec, category, "test", defect, number)
            picture, mask = draw(crop(category, "test", spec.image_size, rng), category, rng)
            _write(folder / "test" / defect / f"{number:03}.png", picture)
            _write(folder / "ground_truth" / defect / f"{number:03}_mask.png", mask.astype(np.uint8) * 255)


def _rng(spec: TexturesSpec, category: str, part: Part, kind: str, number: int) -> Generator:
    """Return the random generator of one image, so that more images of one kind leave all others unchanged."""
    return np.random.default_rng([spec.seed, zlib.crc32(f"{category}/{part}/{kind}".encode()), number])


def _write(file: Path, picture: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file, compress_level=1)
