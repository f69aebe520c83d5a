# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes: both end with the same Grad, and MultiCategory gives every image to one of them."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import write_category
from whole_run import Process

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]

SCRIPT = """
import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy
import torch
from anomalib.engine import Engine
from anomalib.metrics import AUROC

from anomalib_grad.data import MultiCategory
from anomalib_grad.lightning_model import Grad
from helpers import tiny


def fit_grad(root, devices, strategy):
    pl.seed_everything(0)
    model = Grad("plus", **tiny(max_epochs=2, copies=0))  # which version of an image is drawn differs by process
    data = MultiCategory(root=root, train_batch_size=2, eval_batch_size=2, num_workers=0, seed=0)
    engine = Engine(default_root_dir="results", accelerator="cpu", devices=devices, strategy=strategy)
    engine.fit(model, datamodule=data)
    torch.save(model.state_dict(), f"rank{engine.trainer.global_rank}of{devices}.pt")
    numpy.save(f"features{engine.trainer.global_rank}of{devices}.npy", model.feature_caching.rows)
    carried = {name: [image.name for image in one.images] for name, one in model._sample.validation.items()}
    torch.save(carried, f"carried{engine.trainer.global_rank}of{devices}.pt")
    engine.predict(model, datamodule=data)
    if engine.trainer.is_global_zero:
        table = Path(engine.trainer.default_root_dir, "images/predictions.csv")
        Path(f"predictions{devices}.csv").write_text(table.read_text())


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


def judge_by_brightness(root, devices, strategy):
    pl.seed_everything(7)
    model = Brightness()
    data = MultiCategory(root, balanced=True, seed=3, num_workers=0, train_batch_size=3, eval_batch_size=3)
    trainer = pl.Trainer(accelerator="cpu", devices=devices, max_epochs=1, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, strategy=strategy)
    trainer.fit(model, datamodule=data)
    metrics = trainer.test(model, datamodule=data, verbose=False)[0]
    predicted = [path for paths in trainer.predict(model, datamodule=data) for path in paths]
    result = {"metrics": metrics, "trained": model.trained, "tested": model.tested, "predicted": predicted}
    Path(f"rank{trainer.global_rank}of{devices}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    shop, unequal, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
    strategy = "ddp" if devices > 1 else "auto"
    fit_grad(shop, devices, strategy)
    judge_by_brightness(unequal, devices, strategy)
"""


def run_alone(script: Path, arguments: list[str], environment: dict[str, str], note: object) -> None:
    """Run the script on one device, in a process that need not import all anew."""
    os.environ.update(environment)
    os.chdir(script.parent)
    sys.argv = [str(script), *arguments, "1"]
    runpy.run_path(str(script), run_name="__main__")


@pytest.fixture(scope="module")
def results(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes on one device and on two."""
    folder = tmp_path_factory.mktemp("processes")
    for index, (product, train) in enumerate({"ant": 5, "bee": 9, "cup": 3}.items()):
        write_category(folder / "unequal" / product, train=train, good=3 + index, defects=3 + index)
    shutil.rmtree(folder / "unequal/cup/ground_truth")
    script, arguments = folder / "script.py", [str(shop), str(folder / "unequal")]
    script.write_text(SCRIPT)
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    process = Process(run_alone, script, arguments, environment, log=folder / "log")
    command = [sys.executable, str(script), *arguments, "2"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    process.finish()
    return folder


def test_processes_share_one_feature_cache_and_have_the_same_weights_k_recogniser_and_thresholds(results: Path) -> None:
    first, second = (torch.load(results / f"rank{rank}of2.pt", weights_only=True) for rank in range(2))
    alone = torch.load(results / "rank0of1.pt", weights_only=True)
    assert first.keys() == second.keys() == alone.keys()
    own_statistics = ("running_mean", "running_var")  # every process normalises by its own batches
    differing = [
        key
        for key in first
        if not key.endswith(own_statistics) and not torch.equal(first[key].nan_to_num(), second[key].nan_to_num())
    ]
    assert differing == [], json.dumps(differing)
    assert first["model.head.mse_threshold"] == alone["model.head.mse_threshold"] > 0
    (shared,) = results.glob("cache/anomalib_grad/features/*.npy")  # one process alone has kept its own in memory
    features = np.load(shared)
    for name in ("features0of1", "features0of2", "features1of2"):
        np.testing.assert_allclose(np.load(results / f"{name}.npy"), features, rtol=1e-4, atol=1e-5)
    carried = [torch.load(results / f"carried{run}.pt") for run in ("0of1", "0of2", "1of2")]
    assert carried[0] == carried[1] == carried[2], "validation images of both processes"
    assert {name: len(images) for name, images in carried[0].items()} == {"nut": 4, "pin": 4}
    recogniser = "post_processor.recogniser."
    assert first[recogniser + "means"].shape[0] == 2
    for name in ("whitening.matrix", "whitening.bias"):
        torch.testing.assert_close(first[f"model.{name}"], alone[f"model.{name}"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first["model.normal_scale.units"], second["model.normal_scale.units"])
    for name in ("means", "scale", "radius"):  # learned from the images of both processes
        torch.testing.assert_close(first[recogniser + name], alone[recogniser + name], rtol=1e-4, atol=1e-5)


def test_scores_of_both_processes_are_in_one_table(results: Path, shop: Path) -> None:
    alone, both = (pd.read_csv(results / f"predictions{devices}.csv") for devices in (1, 2))
    assert list(both["path"]) == list(alone["path"])
    assert sorted(both["path"]) == sorted(map(str, shop.glob("*/test/*/*.png")))
    assert [Path(row.path).parts[-4] for row in both.itertuples()] == list(both["category"])


def test_two_processes_evaluate_every_image_once(results: Path) -> None:
    alone = json.loads((results / "rank0of1.json").read_text())
    ranks = [json.loads((results / f"rank{rank}of2.json").read_text()) for rank in range(2)]
    for stage in ("tested", "predicted"):
        assert sorted(ranks[0][stage] + ranks[1][stage]) == sorted(alone[stage])
        assert len(set(alone[stage])) == 24
        assert min(len(rank[stage]) for rank in ranks) == 12
    for rank in ranks:
        assert rank["metrics"] == pytest.approx(alone["metrics"], abs=1e-6, nan_ok=True)  # cup has no masks
    assert 0.5 < alone["metrics"]["pixel"] <= 1.0
    assert [len(rank["trained"]) for rank in ranks] == [9, 9]  # 17 draws, padded to equal shares
