# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A long training and a long prediction: memory and open files stay where they are once both are warm.

``ANOMALIB_GRAD_LONG=1 uv run pytest -n 0 -s tests/robustness/test_long_run.py`` takes the long form: 50 epochs and
20,000 images. Both forms print what they measured.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from anomalib_grad.data import MultiCategory
from anomalib_grad.lightning_model import Grad
from helpers import as_if_trained, write_category
from whole_run import ARGUMENTS, TIMEOUT, Process

pytestmark = pytest.mark.slow

LONG = os.environ.get("ANOMALIB_GRAD_LONG") == "1"
EPOCHS, IMAGES = (50, 20_000) if LONG else (12, 600)
WARM = 0.4
"""Share of a run after which it counts as warm."""
GROWTH = 4.0
"""Allowed growth of the resident memory from warm to the end, but for its largest step, in MiB: maps would be more."""


class Watch(Callback):
    """Measures resident memory in MiB and open files after each epoch of training, and now and then in prediction."""

    def __init__(self) -> None:
        self.measured: list[tuple[float, int]] = []
        self.process = psutil.Process()

    def measure(self) -> None:
        gc.collect()
        self.measured.append((self.process.memory_info().rss / 2**20, self.process.num_fds()))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measure()

    def on_predict_batch_end(self, trainer: Trainer, *arguments: object, **options: object) -> None:
        if trainer.predict_loop.batch_progress.current.ready % 5 == 0:
            self.measure()


def train(folder: Path, note: Callable[[str], None]) -> None:
    seed_everything(0)
    watch = Watch()
    model = Grad(**ARGUMENTS, feature_cache="disk", cache={"folder": folder / "cache"})
    data = MultiCategory(folder / "shop", train_batch_size=4, eval_batch_size=4, num_workers=0)
    Engine(callbacks=[watch], default_root_dir=folder / "results", max_epochs=EPOCHS, accelerator="cpu", devices=1).fit(
        model, datamodule=data
    )
    (folder / "measured.json").write_text(json.dumps(watch.measured))


def predict(folder: Path, note: Callable[[str], None]) -> None:
    watch = Watch()
    images = PredictDataset(folder / "images")
    loader = DataLoader(images, batch_size=8, collate_fn=images.collate_fn)
    engine = Engine(callbacks=[watch], default_root_dir=folder / "results", accelerator="cpu", devices=1)
    model = as_if_trained(Grad(**ARGUMENTS, visualizer=False))
    engine.predict(model, dataloaders=loader, return_predictions=False)
    (folder / "measured.json").write_text(json.dumps(watch.measured))


def prepare_training(folder: Path) -> None:
    for name in ("nut", "pin"):
        write_category(folder / "shop" / name)


def prepare_prediction(folder: Path) -> None:
    """Many names for a few images."""
    kept = sorted((write_category(folder / "shop/nut", good=20) / "test/good").iterdir())
    (folder / "images").mkdir()
    for number in range(IMAGES):
        os.link(kept[number % len(kept)], folder / f"images/{number:05d}.png")


@pytest.mark.parametrize(("prepare", "work"), [(prepare_training, train), (prepare_prediction, predict)])
def test_memory_and_open_files_stay_where_they_are(
    tmp_path: Path, prepare: Callable[[Path], None], work: Callable[..., None]
) -> None:
    prepare(tmp_path)
    Process(work, tmp_path, log=tmp_path / "log").finish(timeout=6 * 3600 if LONG else TIMEOUT)
    memory, files = np.array(json.loads((tmp_path / "measured.json").read_text())).T
    warm = int(WARM * len(memory))
    steps = np.diff(memory[warm:])
    growth = steps.sum() - steps.max()  # a leak takes many steps, the allocator's next arena is one
    sys.stdout.write(
        f"\n{work.__name__}: {memory[warm]:.1f} MiB warm, {memory[-1]:.1f} at the end, {growth:+.2f} without the "
        f"largest step; {files[warm]:.0f} and {files[-1]:.0f} open files\n"
    )
    assert len(memory) > 10
    assert growth < GROWTH
    assert files[warm:].max() <= files[warm]
