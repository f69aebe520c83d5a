# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""MultiCategory through anomalib's command line and in two processes."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from command_lines import COMMAND_LINES
from whole_run import Process

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]


def write_image(path: Path, value: float, *, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).normal(value, 6, (48, 48, 3)).clip(0, 255).astype(np.uint8)
    if "crack" in str(path):
        pixels[10:20, 10:20] = 255
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three products with equal file names, one of them without masks."""
    root = tmp_path_factory.mktemp("data") / "shop"
    for index, (product, n_train) in enumerate({"ant": 5, "bee": 9, "cup": 3}.items()):
        for number in range(n_train):
            write_image(root / product / "train/good" / f"{number}.png", 60 + 40 * index, seed=number)
        for number in range(3 + index):
            write_image(root / product / "test/good" / f"{number}.png", 60 + 40 * index, seed=50 + number)
            write_image(root / product / "test/crack" / f"{number}.png", 60 + 40 * index, seed=90 + number)
            if product != "cup":
                mask = np.zeros((48, 48), dtype=np.uint8)
                mask[10:20, 10:20] = 255
                path = root / product / "ground_truth/crack" / f"{number}_mask.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
    return root


def start(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


def run(*command: str, cwd: Path) -> str:
    done = start(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


CATEGORIES = {"all": "all", "[ant, bee]": ["ant", "bee"]}
WRONG = (
    (
        ("--data", "anomalib_grad.data.MultiCategory", "--data.root", "/nowhere"),
        "there is no folder /nowhere; give the folder that holds one folder per category as root",
    ),
    (
        ("--data", "MultiCategory", "--data.root", "shop", "--data.categories", "[ant, bea]"),
        "there is no category 'bea' in shop; the categories there are ant, bee, cup",
    ),
)


@pytest.fixture(scope="module")
def answers(root: Path) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of a command for each of the above, and of a training of Padim."""
    data = ("--data", "anomalib_grad.data.MultiCategory", "--data.root", str(root), "--print_config")
    parsed = [("train", "--model", "Padim", *data, "--data.categories", given) for given in CATEGORIES]
    refused = [("train", "--model", "Grad", "--model.backbone", "grad_tiny", *given) for given, _ in WRONG]
    padim = (
        *("train", "--model", "Padim", "--model.backbone", "resnet18", "--model.pre_trained", "false"),
        *("--data", "anomalib_grad.data.MultiCategory", "--data.root", str(root), "--data.categories", "all"),
        *("--data.num_workers", "0", "--data.train_batch_size", "8", "--data.eval_batch_size", "8"),
        *("--trainer.accelerator", "cpu"),
    )
    printed = run(sys.executable, "-c", COMMAND_LINES, json.dumps([*parsed, *refused, padim]), cwd=root.parent)
    return json.loads(printed.splitlines()[-1])["answers"]


def test_categories_parse_on_the_command_line(answers: list[tuple[int, str, str]]) -> None:
    for (code, printed, _), parsed in zip(answers, CATEGORIES.values(), strict=False):
        assert code == 0
        assert yaml.safe_load(printed)["data"]["init_args"]["categories"] == parsed


def test_the_command_line_ends_with_what_is_wrong(answers: list[tuple[int, str, str]]) -> None:
    for (code, _, failed), (_, sentence) in zip(answers[len(CATEGORIES) : -1], WRONG, strict=True):
        assert code != 0
        assert " ".join(failed.split()).endswith(f"Error: {sentence}")
        assert "Union" not in failed


def test_padim_trains_and_tests_on_all_categories(answers: list[tuple[int, str, str]], root: Path) -> None:
    code, output, failed = answers[-1]
    assert code == 0, failed
    assert "image_AUROC" in output
    assert "pixel_AUROC" in output
    images = root.parent / "results" / "Padim" / "shop" / "v0" / "images"
    written = {str(path.relative_to(images)) for path in images.rglob("*.png")}
    expected = {f"{path.parents[2].name}/test/{path.parent.name}/{path.name}" for path in root.glob("*/test/*/*.png")}
    assert written == expected
    assert len(written) == 24


TWO_PROCESSES = """
import json, sys, torch
from pathlib import Path
import lightning.pytorch as pl
from anomalib.metrics import AUROC
from anomalib_grad.data import MultiCategory

class Brightness(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.image_auroc = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
        self.pixel_auroc = AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False)
        self.trained, self.tested = [], []
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def training_step(self, batch):
        self.trained += batch.image_path
        return (self.weight - batch.image.mean()).square().sum()
    def validation_step(self, batch):
        pass
    def test_step(self, batch):
        self.tested += batch.image_path
        batch.anomaly_map = batch.image.amax(dim=1)
        batch.pred_score = batch.image.flatten(1).std(dim=1)
        self.image_auroc.update(batch)
        self.pixel_auroc.update(batch)
    def on_test_epoch_end(self):
        self.log("image", self.image_auroc)
        self.log("pixel", self.pixel_auroc)
    def predict_step(self, batch):
        return batch.image_path

if __name__ == "__main__":
    root, devices = sys.argv[1], int(sys.argv[2])
    pl.seed_everything(7)
    model = Brightness()
    data = MultiCategory(root, balanced=True, seed=3, num_workers=0, train_batch_size=3, eval_batch_size=3)
    trainer = pl.Trainer(accelerator="cpu", devices=devices, max_epochs=1, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, strategy="ddp" if devices > 1 else "auto")
    trainer.fit(model, datamodule=data)
    metrics = trainer.test(model, datamodule=data, verbose=False)[0]
    predicted = [path for paths in trainer.predict(model, datamodule=data) for path in paths]
    result = {"metrics": metrics, "trained": model.trained, "tested": model.tested, "predicted": predicted}
    Path(f"rank{trainer.global_rank}of{devices}.json").write_text(json.dumps(result))
"""


def run_alone(script: Path, root: Path, note: object) -> None:
    """Run the script on one device, in a process that need not import all anew."""
    os.chdir(script.parent)
    sys.argv = [str(script), str(root), "1"]
    runpy.run_path(str(script), run_name="__main__")


def test_two_processes_evaluate_every_image_once(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "evaluate.py"
    script.write_text(TWO_PROCESSES)
    process = Process(run_alone, script, root, log=tmp_path / "log")
    run(sys.executable, str(script), str(root), "2", cwd=tmp_path)
    process.finish()
    alone = json.loads((tmp_path / "rank0of1.json").read_text())
    ranks = [json.loads((tmp_path / f"rank{rank}of2.json").read_text()) for rank in range(2)]
    for stage in ("tested", "predicted"):
        assert sorted(ranks[0][stage] + ranks[1][stage]) == sorted(alone[stage])
        assert len(set(alone[stage])) == 24
        assert min(len(rank[stage]) for rank in ranks) == 12
    for rank in ranks:
        assert rank["metrics"] == pytest.approx(alone["metrics"], abs=1e-6, nan_ok=True)  # cup has no masks
    assert 0.5 < alone["metrics"]["pixel"] <= 1.0
    assert [len(rank["trained"]) for rank in ranks] == [9, 9]  # 17 draws, padded to equal shares
