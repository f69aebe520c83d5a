# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A first real run: real photographs, pretrained weights, anomalib's command line, a few CPU minutes."""

import re
from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
SHARED = PROJECT.parent / "shared"
SHORTER = (
    *("--trainer.max_epochs", "6", "--model.recipe", "fast", "--model.training.warmup_steps", "10"),
    *("--model.method.num_blocks", "4"),
)
"""Schedule and size of the recipe plus in the place of the authors': as accurate in a third of the time."""


def test_bottle_reaches_its_accuracy_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for needed in ("data/bottle/test", "weights/mobilenetv2_100.safetensors"):
        if not (SHARED / needed).exists():
            pytest.skip(f"../shared/{needed} is not there: this test needs real photographs and pretrained weights")
    monkeypatch.chdir(PROJECT)
    AnomalibCLI(
        args=[
            *("train", "--config", "configs/example_bottle.yaml"),
            *("--default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"),
            *SHORTER,
        ]
    )
    printed = capsys.readouterr().out
    metrics = {name: float(value) for name, value in re.findall(r"(\w+_AUROC)\W+([\d.]+)", printed)}
    assert metrics["image_AUROC"] >= 0.99
    assert metrics["pixel_AUROC"] >= 0.96
    tested = list((SHARED / "data/bottle/test").glob("*/*.*"))
    heatmaps = list(tmp_path.glob("Grad/MVTecAD/bottle/v0/images/*/*.png"))
    assert len(heatmaps) == len(tested) > 0
