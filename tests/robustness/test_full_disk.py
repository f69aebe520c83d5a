# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A full disk, a folder that cannot be written to, files that vanish: one clear error, and what was whole stays so."""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_grad.atomic import LEFTOVER_SECONDS, writing
from anomalib_grad.data import MultiCategory
from anomalib_grad.evaluation.records import CategoryResult, TestReport
from anomalib_grad.evaluation.table import write_csv, write_json
from anomalib_grad.feature_cache.store import GIB, CacheFile
from anomalib_grad.lightning_model import Grad
from anomalib_grad.trust.checkpoint_io import WholeCheckpointIO
from helpers import tiny, write_category

ROW = CategoryResult("nut", 2, 2, 1.0, 1.0, 1.0, 1.0, threshold=3.0)
REPORT = TestReport("Grad", [ROW] * 100, ROW, [], [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, timeout=60)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=60)


def make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, timeout=60)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes: what a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save(path: Path, numbers: int) -> None:
    WholeCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.ones(numbers)}}, path)


def write_text(path: Path, numbers: int) -> None:
    with writing(path) as unfinished:
        unfinished.write_text("1" * 4 * numbers)


def report_csv(path: Path, numbers: int) -> None:
    write_csv(REPORT if numbers > 1000 else TestReport("Grad", [], ROW, [], []), path)


def report_json(path: Path, numbers: int) -> None:
    write_json(REPORT if numbers > 1000 else TestReport("Grad", [], ROW, [], []), path)


WRITERS = {"checkpoint": save, "text": write_text, "csv": report_csv, "json": report_json}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_above_the_quota_leaves_the_old_one_whole(tmp_path: Path, write: Callable[[Path, int], None]) -> None:
    target = tmp_path / "file"
    write(target, 10)
    before = target.read_bytes()
    with files_up_to(len(before) + 1000), pytest.raises(OSError, match=rf"cannot write '{target}' .*make room"):
        write(target, 100_000)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_checkpoint_for_a_full_disk_leaves_the_old_one_whole(small_disk: Path) -> None:
    target = small_disk / "weights/model.ckpt"
    save(target, 1000)
    before = target.read_bytes()
    with pytest.raises(OSError, match=rf"cannot write '{target}' \(No space left on device\)"):
        save(target, 100_000)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["model.ckpt"]


def test_a_cache_for_a_full_disk_stops_before_anything_is_computed(small_disk: Path) -> None:
    file = CacheFile(small_disk, "name", (1000, 1000), np.dtype("float32"))
    with pytest.raises(OSError, match=r"needs 0\.00 GiB in .*No space left.*set feature_cache to false"):
        file.begin(GIB)
    assert [path.name for path in small_disk.iterdir()] == ["name.lock"]


def test_a_disk_that_becomes_read_only_is_named_and_keeps_the_old_checkpoint(small_disk: Path) -> None:
    target = small_disk / "model.ckpt"
    save(target, 1000)
    make_read_only(small_disk)
    with pytest.raises(OSError, match=rf"cannot write '{target}' \(Read-only file system\)"):
        save(target, 1)
    assert torch.load(target, weights_only=True)["state_dict"]["weight"].shape == (1000,)
    file = CacheFile(small_disk / "cache", "name", (1, 1), np.dtype("float32"))
    with pytest.raises(OSError, match=r"cannot write feature caches to .*Read-only file system"):
        file.begin(GIB)


class AfterFirstEpoch(Callback):
    """Does something to the machine after the first epoch."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.action()


def train(shop: Path, folder: Path, action: Callable[[], object], **arguments: object) -> None:
    data = MultiCategory(root=shop, train_batch_size=2, eval_batch_size=4, num_workers=0)
    engine = Engine(
        callbacks=[AfterFirstEpoch(action)], default_root_dir=folder, max_epochs=2, accelerator="cpu", devices=1
    )
    engine.fit(Grad(**tiny(**arguments), evaluator=False, visualizer=False), datamodule=data)


def test_a_disk_that_fills_up_while_training_keeps_the_last_checkpoint(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot write '.*/model\.ckpt' \(File too large\)"), files_up_to(2**30):
        train(shop, tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY)))
    (checkpoint,) = tmp_path.glob("Grad/*/v0/weights/lightning/*")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0
    assert isinstance(Grad.load_from_checkpoint(checkpoint), Grad)


def test_an_image_that_vanishes_while_training_is_named(tmp_path: Path) -> None:
    image = write_category(tmp_path / "shop/nut") / "train/good/001.png"
    with pytest.raises(Exception, match=rf"{image}"):
        train(tmp_path / "shop", tmp_path / "results", image.unlink, feature_cache=False)


def test_a_cache_that_vanishes_while_training_is_not_missed(shop: Path, tmp_path: Path) -> None:
    def remove() -> None:
        (file,) = tmp_path.glob("cache/*.npy")
        file.unlink()

    train(shop, tmp_path, remove, feature_cache="disk", folder=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*.npy"))


def test_what_killed_runs_left_is_removed_after_a_day(tmp_path: Path) -> None:
    left, in_use = tmp_path / ".file.left.unfinished", tmp_path / ".file.in_use.unfinished"
    for folder in (left, in_use):
        folder.mkdir()
        (folder / "file").write_text("half")
    day_ago = time.time() - LEFTOVER_SECONDS - 1
    os.utime(left, (day_ago, day_ago))
    write_text(tmp_path / "file", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [in_use.name, "file"]
