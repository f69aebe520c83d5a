# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Workers that are started anew, not forked, as on Windows and macOS: everything that they are given can be sent."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI
from anomalib.engine import Engine
from torch.utils.data import DataLoader

from anomalib_grad.data import MultiCategory, PredictImages
from anomalib_grad.lightning_model import Grad
from helpers import tiny
from whole_run import PRELOAD

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _started_anew() -> Iterator[None]:
    """Send to workers what `spawn` sends, through pickle, to processes that need not import all first."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("copies", [0, 1])
def test_in_python(shop: Path, tmp_path: Path, copies: int) -> None:
    model = Grad(**tiny(max_epochs=1, copies=copies))
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=2)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
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
