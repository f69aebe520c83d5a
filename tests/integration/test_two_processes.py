# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Grad in two processes: both end with the same model."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from whole_run import Process

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]

FIT = """
import sys
from pathlib import Path

import numpy
import torch
from anomalib.engine import Engine
from lightning.pytorch import seed_everything

from anomalib_grad.data import MultiCategory
from anomalib_grad.lightning_model import Grad
from helpers import tiny

if __name__ == "__main__":
    root, devices = sys.argv[1], int(sys.argv[2])
    seed_everything(0)
    model = Grad("plus", **tiny(max_epochs=2, copies=0))  # which version of an image is drawn differs by process
    data = MultiCategory(root=root, train_batch_size=2, eval_batch_size=2, num_workers=0, seed=0)
    strategy = "ddp" if devices > 1 else "auto"
    engine = Engine(default_root_dir="results", accelerator="cpu", devices=devices, strategy=strategy)
    engine.fit(model, datamodule=data)
    torch.save(model.state_dict(), f"rank{engine.trainer.global_rank}of{devices}.pt")
    numpy.save(f"features{engine.trainer.global_rank}of{devices}.npy", model.feature_caching.rows)
    carried = {name: [image.name for image in one.images] for name, one in model._sample.judged.items()}
    torch.save(carried, f"carried{engine.trainer.global_rank}of{devices}.pt")
"""


def run_alone(script: Path, shop: Path, environment: dict[str, str], note: object) -> None:
    """Run the script on one device, in a process that need not import all anew."""
    os.environ.update(environment)
    os.chdir(script.parent)
    sys.argv = [str(script), str(shop), "1"]
    runpy.run_path(str(script), run_name="__main__")


def test_processes_share_one_feature_cache_and_have_the_same_weights_k_recogniser_and_thresholds(
    shop: Path, tmp_path: Path
) -> None:
    script = tmp_path / "fit.py"
    script.write_text(FIT)
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    process = Process(run_alone, script, shop, environment, log=tmp_path / "log")
    done = subprocess.run(
        [sys.executable, str(script), str(shop), "2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    process.finish()
    first, second = (torch.load(tmp_path / f"rank{rank}of2.pt", weights_only=True) for rank in range(2))
    alone = torch.load(tmp_path / "rank0of1.pt", weights_only=True)
    assert first.keys() == second.keys() == alone.keys()
    own_statistics = ("running_mean", "running_var")  # every process normalises by its own batches
    differing = [
        key
        for key in first
        if not key.endswith(own_statistics) and not torch.equal(first[key].nan_to_num(), second[key].nan_to_num())
    ]
    assert differing == [], json.dumps(differing)
    assert first["model.head.mse_threshold"] == alone["model.head.mse_threshold"] > 0
    (shared,) = tmp_path.glob("cache/anomalib_grad/features/*.npy")  # one process alone has kept its own in memory
    features = np.load(shared)
    for name in ("features0of1", "features0of2", "features1of2"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), features, rtol=1e-4, atol=1e-5)
    carried = [torch.load(tmp_path / f"carried{run}.pt") for run in ("0of1", "0of2", "1of2")]
    assert carried[0] == carried[1] == carried[2], "validation images of both processes"
    assert {name: len(images) for name, images in carried[0].items()} == {"nut": 4, "pin": 4}
    recogniser = "post_processor.recogniser."
    assert first[recogniser + "means"].shape[0] == 2
    for name in ("whitening.matrix", "whitening.bias"):
        torch.testing.assert_close(first[f"model.{name}"], alone[f"model.{name}"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first["model.normal_scale.units"], second["model.normal_scale.units"])
    for name in ("means", "scale", "radius"):  # learned from the images of both processes
        torch.testing.assert_close(first[recogniser + name], alone[recogniser + name], rtol=1e-4, atol=1e-5)
