# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Workers that are started anew, not forked, as on Windows and macOS: everything that they are given can be sent."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.engine import Engine
from lightning import seed_everything
from torch.utils.data import DataLoader

from anomalib_grad.data import MultiCategory, PredictImages
from anomalib_grad.lightning_model import Grad
from helpers import tiny
from whole_run import PRELOAD

pytestmark = pytest.mark.slow


def trained(shop: Path, folder: Path, workers: int, **arguments: Any) -> tuple[Grad, Engine, MultiCategory]:
    """Train, with an empty feature cache."""
    seed_everything(1)
    model = Grad(**tiny(cache={"folder": folder / "cache"}, **arguments))
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=workers)
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    return model, engine, data


@pytest.fixture(autouse=True)
def _started_anew() -> Iterator[None]:
    """Send to workers what `spawn` sends, through pickle, to processes that need not import all first."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_cached_features_are_those_of_one_process(shop: Path, tmp_path: Path) -> None:
    """Workers read the images whose features fill the cache, and the model sees none again."""
    cached = {"feature_cache": "disk", "max_epochs": 2, "copies": 0}
    model, engine, data = trained(shop, tmp_path, 2, **cached)
    assert list((tmp_path / "cache").iterdir())
    alone, _, _ = trained(shop, tmp_path / "alone", 0, **cached)
    assert all(map(torch.equal, model.state_dict().values(), alone.state_dict().values()))
    assert "nut/image_AUROC" in engine.test(model, datamodule=data)[0]


def test_in_python(shop: Path, tmp_path: Path) -> None:
    model, engine, data = trained(shop, tmp_path, 2, max_epochs=1, copies=1)
    assert "nut/image_AUROC" in engine.test(model, datamodule=data)[0]
    images = PredictImages(shop / "nut/test", skip_unreadable=True)
    loader = DataLoader(images, num_workers=2, collate_fn=images.collate_fn)
    assert len(engine.predict(model, dataloaders=loader)) == 4


def test_on_the_command_line(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AnomalibCLI(
        args=[
            *("train", "--model", "Grad", "--model.backbone", "grad_tiny", "--model.image_size", "[64, 64]"),
            *("--model.fusion", "small", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"),
            *("--data", "MultiCategory", "--data.root", str(shop), "--data.num_workers", "2"),
            *("--data.train_batch_size", "4", "--default_root_dir", str(tmp_path)),
        ]
    )
    assert "nut/image_AUROC" in capsys.readouterr().out
