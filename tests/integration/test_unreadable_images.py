# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged files in a data set: the error names them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_grad.lightning_model import Grad
from helpers import TINY, as_if_trained, write_category


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def break_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[37:41] = b"\0\0\0\0"  # a chunk without a name
    path.write_bytes(content)


def no_image_at_all(path: Path) -> None:
    path.write_text("not an image")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_category(tmp_path / "data/nut")
    return tmp_path / "data"


def engine(folder: Path) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=1)


def data(root: Path, num_workers: int = 0) -> MVTecAD:
    return MVTecAD(root=root, category="nut", train_batch_size=2, eval_batch_size=2, num_workers=num_workers)


@pytest.mark.parametrize("damage", [truncate, break_header, no_image_at_all])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fit_names_the_damaged_image(
    root: Path, tmp_path: Path, damage: Callable[[Path], None], num_workers: int
) -> None:
    image = root / "nut/train/good/002.png"
    damage(image)
    with pytest.raises((OSError, SyntaxError), match=re.escape(str(image))) as error:
        engine(tmp_path).fit(Grad(**TINY), datamodule=data(root, num_workers))
    assert str(error.value).startswith("could not read image ")
    assert "\n" not in str(error.value)
    assert str(error.value).count(".png") <= 2  # the image library may name it again


def test_all_damaged_files_are_named_at_once_masks_among_them(root: Path, tmp_path: Path) -> None:
    damaged = [root / "nut/test/good/001.png", root / "nut/ground_truth/spot/000_mask.png"]
    for path in damaged:
        no_image_at_all(path)
    with pytest.raises(OSError, match="could not read") as error:
        engine(tmp_path).test(as_if_trained(Grad(**TINY)), datamodule=data(root))
    for path in damaged:
        assert str(path) in str(error.value)
    assert (
        "; to leave such files out, set --data.skip_unreadable true (of MultiCategory and PredictImages, in Python "
        in str(error.value)
    )


def test_prediction_on_a_folder_names_the_damaged_image(root: Path, tmp_path: Path) -> None:
    image = root / "nut/test/spot/000.png"
    truncate(image)
    with pytest.raises(OSError, match=re.escape(str(image))):
        engine(tmp_path).predict(as_if_trained(Grad(**TINY)), data_path=root / "nut/test/spot")


def test_other_errors_keep_their_message_even_beside_damaged_files(root: Path, tmp_path: Path) -> None:
    class Failing(Grad):
        def training_step(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("no space left")

    truncate(root / "nut/test/good/001.png")  # validation would read it next
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(OSError, match=r"^no space left$"):
        engine.fit(Failing(**TINY), datamodule=data(root))


def test_a_failing_augmentation_keeps_its_message(root: Path, tmp_path: Path) -> None:
    loader = data(root)
    loader.setup()

    def fail(*_: object) -> None:
        raise ValueError("no such augmentation")

    loader.train_data.augmentations = fail
    with pytest.raises(ValueError, match=r"^no such augmentation$"):
        engine(tmp_path).fit(
            Grad(**TINY), train_dataloaders=loader.train_dataloader(), val_dataloaders=loader.val_dataloader()
        )
