# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Two trainings in one folder at the same time: each ends as if it were alone, and no file mixes both."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import sleep

import numpy as np
import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from anomalib_grad.data import MultiCategory
from anomalib_grad.feature_cache.store import GIB, CacheFile
from anomalib_grad.files.atomic import writing
from anomalib_grad.lightning_model import Grad
from whole_run import ARGUMENTS, Process

pytestmark = pytest.mark.slow

EPOCHS = 4


class NoteSetup(Callback):
    """Says when the results folder of this run is there."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.note("set up")


def train(shop: Path, folder: Path, seed: int, note: Callable[[str], None]) -> None:
    """Train and test; caches, checkpoints and results go into folders that runs of other seeds may use as well."""
    seed_everything(seed)
    model = Grad(**ARGUMENTS, feature_cache="disk", cache={"folder": folder / "cache"})
    every_epoch = ModelCheckpoint(folder / "weights", "{epoch}", save_top_k=-1, enable_version_counter=False)
    engine = Engine(
        callbacks=[every_epoch, NoteSetup(note)],
        default_root_dir=folder,
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
    )
    engine.train(model, datamodule=MultiCategory(shop, train_batch_size=2, eval_batch_size=4, num_workers=0))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key].nan_to_num(), other[key].nan_to_num()) for key in one
    )


def test_two_trainings_in_one_folder_end_as_two_in_folders_of_their_own(shop: Path, tmp_path: Path) -> None:
    alone = [tmp_path / "first", tmp_path / "second"]
    for seed, folder in enumerate(alone):
        folder.mkdir()
        Process(train, shop, folder, seed, log=folder / "log").finish()
    shared = tmp_path / "shared"
    shared.mkdir()
    together = []
    for seed in range(2):
        together.append(Process(train, shop, shared, seed, log=shared / "log"))
        together[-1].wait_for("set up")
    for process in together:
        process.finish()

    (cache,) = shared.glob("cache/*.npy")
    assert all(cache.read_bytes() == (folder / "cache" / cache.name).read_bytes() for folder in alone)
    checkpoints = sorted(shared.glob("weights/*.ckpt"))
    assert len(checkpoints) == EPOCHS
    for checkpoint in checkpoints:
        own = [weights(folder / "weights" / checkpoint.name) for folder in alone]
        assert not same(*own)
        assert any(same(weights(checkpoint), candidate) for candidate in own)
    for version, folder in enumerate(alone):
        (expected,) = folder.glob("Grad/*/v0/per_category.json")
        (found,) = shared.glob(f"Grad/*/v{version}/per_category.json")
        assert found.read_bytes() == expected.read_bytes()


def fill(folder: Path, seconds: float, note: Callable[[str], None]) -> None:
    file = CacheFile(folder, "name", (2, 2), np.dtype("float32"))
    if not file.begin(GIB):
        note("found")
        return
    note("filling")
    sleep(seconds)
    file.write(lambda rows: rows.fill(7))
    file.finish()


def test_one_run_fills_a_cache_while_the_other_waits_for_it(tmp_path: Path) -> None:
    first = Process(fill, tmp_path, 0.5, log=tmp_path / "log")
    first.wait_for("filling")
    second = Process(fill, tmp_path, 0.0, log=tmp_path / "log")
    second.wait_for("found")
    assert (CacheFile(tmp_path, "name", (2, 2), np.dtype("float32")).read() == 7).all()
    first.finish()
    second.finish()


def test_a_run_does_not_wait_for_one_that_was_killed_while_filling(tmp_path: Path) -> None:
    first = Process(fill, tmp_path, 600.0, log=tmp_path / "log")
    first.wait_for("filling")
    first.kill()
    second = Process(fill, tmp_path, 0.0, log=tmp_path / "log")
    second.wait_for("filling")
    second.finish()


def test_readers_see_one_writer_or_the_other(tmp_path: Path) -> None:
    target, stop = tmp_path / "file", Event()
    target.write_text("a" * 100_000)

    def write(letter: str) -> None:
        for _ in range(30):
            with writing(target) as unfinished:
                unfinished.write_text(letter * 100_000)

    def read() -> set[str]:
        seen = set()
        while not stop.is_set():
            content = target.read_text()
            assert len(content) == 100_000
            seen.add("".join(sorted(set(content))))
        return seen

    with ThreadPoolExecutor(3) as threads:
        reading = threads.submit(read)
        try:
            for writer in [threads.submit(write, letter) for letter in "ab"]:
                writer.result(timeout=60)
        finally:
            stop.set()
        assert reading.result(timeout=60) <= {"a", "b"}
    assert list(tmp_path.iterdir()) == [target]
