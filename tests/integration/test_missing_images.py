# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Runs without images say where to give them, where Lightning and anomalib speak of methods and of sockets."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from anomalib.engine import Engine
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from anomalib_grad.data import MultiCategory
from anomalib_grad.files.refusals import sentence_of
from anomalib_grad.lightning_model import Grad
from helpers import TINY, write_category


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(default_root_dir=tmp_path / "out", accelerator="cpu", devices=1, max_epochs=1, logger=False)


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        ("fit", "a datamodule, such as --data MultiCategory"),
        ("test", "a datamodule, such as --data MultiCategory"),
        ("predict", "a folder of them (--data)"),
    ],
)
def test_a_run_without_images_asks_for_some(engine: Engine, stage: str, wanted: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        getattr(engine, stage)(Grad(**TINY))
    assert sentence_of(error.value) == f"there are no images to run on: give {wanted}."


@pytest.mark.parametrize("data", [MVTecAD("elsewhere", "nut"), MultiCategory("elsewhere", ["screw"])])
def test_data_of_anomalib_that_is_neither_there_nor_to_be_had_is_named(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: AnomalibDataModule
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)  # anomalib makes the folder
    name, category = type(data).__name__, data.category or "screw"
    sentence = f"{name} finds no folder '{category}' in 'elsewhere' and cannot download .* that holds '{category}' as"
    with pytest.raises(OSError, match=sentence) as error:
        engine.fit(Grad(**TINY), datamodule=data)
    assert str(sentence_of(error.value)).startswith(f"{name} finds no folder")


def folder_of_nut(root: Path) -> Folder:
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/spot", "mask_dir": "ground_truth/spot"}
    return Folder("nut", root=root / "nut", **folders, num_workers=0)


def mvtec_of_nut(root: Path) -> MVTecAD:
    return MVTecAD(root, "nut", num_workers=0)


def lose_a_mask(nut: Path) -> None:
    (nut / "ground_truth/spot/000_mask.png").unlink()


def sort_otherwise(nut: Path) -> None:
    """``a-1`` stands before ``a-10``, and ``a-1_mask`` behind ``a-10_mask``."""
    for old, new in (("000", "a-1"), ("001", "a-10")):
        (nut / f"test/spot/{old}.png").rename(nut / f"test/spot/{new}.png")
        (nut / f"ground_truth/spot/{old}_mask.png").rename(nut / f"ground_truth/spot/{new}_mask.png")


def ignore_a_place(nut: Path) -> None:
    shutil.copy(nut / "ground_truth/spot/000_mask.png", nut / "ignore.png")


@pytest.mark.parametrize(
    ("data", "change"),
    [
        (mvtec_of_nut, lose_a_mask),
        (mvtec_of_nut, sort_otherwise),
        (mvtec_of_nut, ignore_a_place),
        (folder_of_nut, lose_a_mask),
        (folder_of_nut, sort_otherwise),
    ],
)
def test_masks_that_anomalib_cannot_pair_are_said_to_be_the_matter(
    engine: Engine, tmp_path: Path, data: Callable[[Path], AnomalibDataModule], change: Callable[[Path], None]
) -> None:
    change(write_category(tmp_path / "nut"))
    images = data(tmp_path)
    with pytest.raises(
        Exception, match=rf"{type(images).__name__} pairs .* the files in '{tmp_path}/nut' do not match"
    ) as error:
        engine.fit(Grad(**TINY), datamodule=images)
    assert "use MultiCategory, which pairs them by name" in str(sentence_of(error.value))


@pytest.mark.parametrize(("place", "said"), [("nowhere", "Path does not exist"), ("", "Found 0 images")])
def test_what_anomalib_says_of_a_path_is_a_refusal(engine: Engine, tmp_path: Path, place: str, said: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        engine.predict(Grad(**TINY), data_path=tmp_path / place)
    assert sentence_of(error.value) == f"{said}{':' if place else ' in'} {(tmp_path / place).resolve()}"
