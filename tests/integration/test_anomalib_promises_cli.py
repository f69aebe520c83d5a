# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's subcommands on Grad that no other test runs, in this process: fit, validate, test, predict, export."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI
from anomalib.deploy import TorchInferencer

from helpers import write_category

pytestmark = pytest.mark.slow

MODEL = (
    *("--model", "Grad", "--model.backbone", "grad_tiny", "--model.image_size", "[64, 64]"),
    *("--model.fusion", "small", "--model.method.num_blocks", "0"),
)
DATA = ("--data", "MVTecAD", "--data.root", "data", "--data.category", "nut", "--data.num_workers", "0")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with one product."""
    folder = tmp_path_factory.mktemp("cli")
    write_category(folder / "data/nut")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        yield folder


def anomalib(*arguments: str) -> None:
    AnomalibCLI(args=list(arguments))


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> tuple[str, str]:
    anomalib("fit", *MODEL, *DATA, "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu")
    (file,) = folder.glob("results/Grad/MVTecAD/nut/v0/weights/lightning/*.ckpt")
    return "--ckpt_path", str(file)


@pytest.mark.parametrize(("command", "metric"), [("validate", None), ("test", "image_AUROC")])
def test_evaluates_a_checkpoint(
    checkpoint: tuple[str, str], capsys: pytest.CaptureFixture[str], command: str, metric: str | None
) -> None:
    anomalib(command, *MODEL, *DATA, *checkpoint)
    printed = capsys.readouterr().out
    assert metric is None or metric in printed


@pytest.mark.parametrize("source", ["data/nut/test", "data/nut/test/spot/000.png"])
def test_predicts_a_folder_and_a_single_image(checkpoint: tuple[str, str], folder: Path, source: str) -> None:
    results = f"predicted-{Path(source).stem}"
    anomalib("predict", *MODEL, "--data", source, *checkpoint, "--default_root_dir", results)
    assert len(list((folder / results).rglob("*.png"))) == (4 if source == "data/nut/test" else 1)


def test_exports_to_torch(checkpoint: tuple[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anomalib("export", *MODEL, "--export_type", "torch", *checkpoint, "--default_root_dir", "torch")
    (file,) = (folder / "torch").rglob("model.pt")
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # what anomalib asks of those who load a pickled model
    prediction = TorchInferencer(file, device="cpu").predict(folder / "data/nut/test/spot/000.png")
    assert 0 <= prediction.pred_score.item() <= 1
