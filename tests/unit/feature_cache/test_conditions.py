# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""When features are cached, and where."""

import logging
import math
import os
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from anomalib.data import MVTecAD
from anomalib.data.datasets import MVTecADDataset
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_grad import Grad
from anomalib_grad.data.dataset import MultiCategoryDataset
from anomalib_grad.feature_cache.conditions import choose_place, first_augmentation, passes, reason_against_caching
from anomalib_grad.feature_cache.fingerprint import hash_images
from anomalib_grad.settings import CacheSettings
from helpers import tiny, write_category

Memory = namedtuple("Memory", "available")


class OwnResize(v2.Resize):
    """May do anything."""


@pytest.mark.parametrize(
    ("transform", "named"),
    [
        (None, None),
        (v2.Resize((8, 8)), None),
        (v2.Compose([v2.Resize((8, 8)), v2.Compose([v2.CenterCrop(4), v2.Normalize([0.5], [0.5])])]), None),
        (v2.RandomHorizontalFlip(), "RandomHorizontalFlip"),
        (v2.Compose([v2.Resize((8, 8)), v2.Compose([v2.ColorJitter()])]), "ColorJitter"),
        (OwnResize((8, 8)), "OwnResize"),
    ],
)
def test_only_transforms_known_never_to_change_allow_a_cache(transform: Any, named: str | None) -> None:
    assert first_augmentation([transform]) == named


def cut_into_tiles(items: list[Any]) -> Any:
    """Stand for what the user makes of images when a batch is made."""
    return items


def test_images_that_change_when_a_batch_is_made_are_not_cached(tmp_path: Path) -> None:
    write_category(tmp_path / "nut", train=2)
    data = MVTecAD(tmp_path, "nut", num_workers=0)
    data.setup()
    assert reason_against_caching(data.train_dataloader(), None) is None
    data.external_collate_fn = cut_into_tiles
    reason = reason_against_caching(data.train_dataloader(), None)
    assert reason == "batches are made by cut_into_tiles, which may change their images"


def test_a_dataset_that_reads_images_in_its_own_way_has_no_cache(tmp_path: Path) -> None:
    class Cropped(MVTecADDataset):
        def __getitem__(self, index: int) -> Any:
            item = super().__getitem__(index)
            item.image = item.image[:, :30, :30]
            return item

    write_category(tmp_path / "nut")
    data = MVTecAD(tmp_path, "nut", num_workers=0)
    data.setup()
    data.train_data.__class__ = Cropped
    joined = DataLoader(MultiCategoryDataset({"nut": data.train_data}))
    for loader in (data.train_dataloader(), joined):
        assert reason_against_caching(loader, None).endswith(
            "Cropped.__getitem__ may return a different image of the same file every time"
        )


def test_an_image_replaced_under_its_old_size_and_time_is_another(tmp_path: Path) -> None:
    file = tmp_path / "000.bmp"
    file.write_bytes(bytes(100))
    before, status = hash_images([str(file)]), file.stat()
    assert hash_images([str(file)]) == before
    file.write_bytes(bytes(99) + b"1")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_images([str(file)]) != before


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_epochs": 3}, 3),
        ({"max_epochs": -1}, math.inf),
        ({"max_epochs": 5, "limit_train_batches": 2}, 1),
        ({"max_epochs": 5, "limit_train_batches": 0.5}, 2.5),
        ({"max_epochs": 5, "max_steps": 15}, 1.5),
        ({"max_epochs": 50, "max_steps": 15, "accumulate_grad_batches": 2}, 3),
        ({"fast_dev_run": True}, 0.1),
    ],
)
def test_passes_over_ten_batches_follow_the_limits_of_the_training(limits: dict[str, Any], expected: float) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **limits)
    assert passes(trainer, 10) == pytest.approx(expected)


@pytest.mark.parametrize(("limits", "left"), [({"max_epochs": 4}, 1), ({"max_epochs": 3}, 0), ({"max_steps": 30}, 0)])
def test_a_training_that_goes_on_has_fewer_passes_left(limits: dict[str, Any], left: float) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **limits)
    trainer.fit_loop.epoch_progress.current.processed = 3
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 30
    assert passes(trainer, 10) == left


def test_a_cache_stands_in_memory_or_on_disk_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = CacheSettings(folder=tmp_path / "not" / "there", gib=1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(2000))
    assert choose_place(settings, "auto", 900, processes=1) == "memory"
    assert choose_place(settings, "auto", 900, processes=2) == "disk"
    assert choose_place(settings, "auto", 1100, processes=1) == "disk"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with caplog.at_level(logging.WARNING):
        assert choose_place(settings, "auto", 1100, processes=1) is None
    assert "fit neither into memory nor into" in caplog.text
    assert choose_place(settings, "memory", 1100, processes=1) == "memory"  # as told


def test_a_cache_above_its_bound_is_off_or_refused_if_it_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose_place(CacheSettings(gib=1), "auto", 2**31, processes=1) is None
    assert "take 2.00 GiB, but cache.gib allows only 1" in caplog.text
    with pytest.raises(ValueError, match=r"raise cache.gib, or halve their size with cache.dtype float16"):
        choose_place(CacheSettings(gib=1), "disk", 2**31, processes=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_cache": "tape"}, "feature_cache must be 'auto', 'memory', 'disk' or false, got 'tape'"),
        ({"dtype": "int8"}, "cache.dtype must be float32 or float16"),
        ({"gib": 0}, "cache.gib must be greater than 0"),
    ],
)
def test_impossible_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grad(**tiny(**arguments))
