# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Masks of what is not judged: where they are found, how they are read, and which are refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_grad.data import MultiCategory
from anomalib_grad.data.ignore_masks import exclude_ignored, kept_pixels
from helpers import write_category


def write_mask(path: Path, white: tuple[slice, slice], side: int = 30) -> Path:
    pixels = np.zeros((side, side), dtype=np.uint8)
    pixels[white] = 255
    Image.fromarray(pixels).save(path)
    return path


LEFT = np.s_[:, :15]
ALL = np.s_[:, :]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("nut", "pin"):
        write_category(tmp_path / "products" / name, side=24)
    return tmp_path / "products"


@pytest.mark.parametrize("size", [(30, 30), (64, 48), (10, 8)])
def test_a_mask_is_scaled_to_the_image(tmp_path: Path, size: tuple[int, int]) -> None:
    kept = kept_pixels(write_mask(tmp_path / "ignore.png", LEFT), size)
    assert kept.shape == size
    assert not kept[:, : size[1] // 2].any()
    assert kept[:, size[1] // 2 :].all()


def test_the_mask_in_a_folder_counts_and_the_one_that_is_given_wins(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = write_mask(root / "nut/ignore.png", LEFT)
    other = str(write_mask(tmp_path / "other.png", LEFT))
    data = MultiCategory(root=root, num_workers=0)
    data.setup()
    assert data.ignore_masks == {"nut": own}
    assert "left out" not in caplog.text, "the mask is no stray image"
    assert MultiCategory(root=root, ignore=other).ignore_masks == {"nut": Path(other), "pin": Path(other)}
    assert MultiCategory(root=root, ignore={"pin": other}).ignore_masks == {"nut": own, "pin": Path(other)}


def test_the_mask_is_no_image_where_images_lie_beside_it(root: Path) -> None:
    write_mask(root / "nut/train/good/ignore.png", LEFT)
    data = MultiCategory(
        root=root / "nut/train",
        categories=["good"],
        dataset="Folder",
        dataset_args={"normal_dir": "."},
        test_split_mode="none",
        val_split_mode="none",
    )
    data.setup()
    assert len(data.train_data) == 4
    assert data.ignore_masks.keys() == {"good"}


@pytest.mark.parametrize(
    ("place", "white", "ignore", "message"),
    [
        ("nut/ignore.png", ALL, None, "nut/ignore.png ignores the whole image; paint only the pixels to ignore white"),
        (
            "nut/ignore.jpg",
            LEFT,
            None,
            "nut/ignore.jpg is not used as an ignore mask under that name; rename it to ignore.png",
        ),
        (
            "pin/Ignore.PNG",
            LEFT,
            None,
            "pin/Ignore.PNG is not used as an ignore mask under that name; rename it to ignore.png",
        ),
        ("ignore.png", LEFT, None, "ignore.png lies beside the products' folders; move it into one of them"),
        (
            "nut/ignore.png",
            LEFT,
            {"bolt": "x.png"},
            "ignore names an unknown product, 'bolt'; the products are: nut, pin",
        ),
        ("nut/ignore.png", LEFT, {"pin": "x.png"}, "could not read mask 'x.png'"),
        ("nut/ignore.png", LEFT, Path("x.png"), "could not read mask 'x.png'"),
        ("nut/ignore.png", LEFT, {7: "x.png", None: "y.png"}, "ignore has 7, which is not text; put the product's"),
    ],
)
def test_masks_that_cannot_be_followed_are_refused(
    root: Path, place: str, white: tuple[slice, slice], ignore: dict[Any, str] | Path | None, message: str
) -> None:
    write_mask(root / place, white)
    with pytest.raises(ValueError, match=message):
        MultiCategory(root=root, num_workers=0, ignore=ignore).setup()


def test_what_is_ignored_is_normal_and_an_image_of_which_all_is_ignored_as_well() -> None:
    marked = torch.zeros(3, 4, 4, dtype=torch.bool)
    marked[0, :, :2] = True
    marked[1, :, 1:3] = True
    batch = SimpleNamespace(anomaly_map=torch.ones(3, 4, 4), gt_mask=marked, gt_label=torch.tensor([True, True, True]))
    ignored = torch.zeros(1, 4, 4, dtype=torch.bool)
    ignored[..., :2] = True
    fields = exclude_ignored(batch, ignored)
    assert fields["anomaly_map"].sum() == 3 * 8
    assert fields["gt_mask"].sum() == 4
    assert fields["gt_label"].tolist() == [False, True, True], "the third never showed where it is anomalous"
