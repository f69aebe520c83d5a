# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Runs without images say where to give them, where Lightning and anomalib speak of methods and of sockets."""

import socket
from pathlib import Path
from typing import NoReturn

import pytest
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.engine import Engine
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from anomalib_grad.data import MultiCategory
from anomalib_grad.files.refusals import sentence_of
from anomalib_grad.lightning_model import Grad
from helpers import TINY


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


@pytest.mark.parametrize(("place", "said"), [("nowhere", "Path does not exist"), ("", "Found 0 images")])
def test_what_anomalib_says_of_a_path_is_a_refusal(engine: Engine, tmp_path: Path, place: str, said: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        engine.predict(Grad(**TINY), data_path=tmp_path / place)
    assert sentence_of(error.value) == f"{said}{':' if place else ' in'} {(tmp_path / place).resolve()}"
