# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way: many categories, one Grad, anomalib's engine and benchmark, results per category."""

import json
from pathlib import Path

import numpy as np
import pytest
from anomalib.engine import Engine
from anomalib.metrics import AUROC
from anomalib.pipelines.benchmark.job import BenchmarkJob
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from anomalib_grad.data import MultiCategory
from anomalib_grad.evaluation import PerCategoryEvaluator, evaluator
from anomalib_grad.lightning_model import Grad
from anomalib_grad.report.records import TestReport

METRICS = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AUPRO")
COLUMNS = {f"{category}/{name}" for category in ("bottle", "cookie", "mean") for name in METRICS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories in MVTec AD's layout: stripes along either axis, with a white block as the defect."""
    folder = tmp_path_factory.mktemp("products")
    generator = np.random.default_rng(0)
    for axis, category in enumerate(("bottle", "cookie")):
        for split, count in (("train/good", 4), ("test/good", 2), ("test/block", 3)):
            (folder / category / split).mkdir(parents=True)
            for index in range(count):
                stripes = np.broadcast_to(40 * (np.arange(64) // 8 % 2), (64, 64))
                pixels = (stripes.T if axis else stripes) + generator.integers(0, 60, (64, 64))
                if split == "test/block":
                    pixels[8 + 4 * index : 24 + 4 * index, 30:50] = 255
                    mask = Image.fromarray(np.where(pixels == 255, 255, 0).astype(np.uint8))
                    masks = folder / category / "ground_truth/block"
                    masks.mkdir(parents=True, exist_ok=True)
                    mask.save(masks / f"{index:03d}_mask.png")
                Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(
                    folder / category / split / f"{index:03d}.png"
                )
    return folder


def datamodule(root: Path) -> MultiCategory:
    return MultiCategory(root=root, train_batch_size=4, eval_batch_size=4, num_workers=0, seed=0)


def grad(**options: object) -> Grad:
    return Grad(
        backbone="mobilenetv2_050",
        pre_trained=False,
        image_size=(64, 64),
        fusion="small",
        method={"num_blocks": 1},
        training={"max_epochs": 1},
        **options,
    )


def test_engine_test_returns_and_reports_every_category(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reports: list[TestReport] = []
    write = evaluator.write_report
    monkeypatch.setattr(evaluator, "write_report", lambda report, *to: (reports.append(report), write(report, *to)))
    best = ModelCheckpoint(tmp_path, "best", monitor="mean/image_AUROC", mode="max")
    callbacks = [PerCategoryEvaluator(), best]
    engine = Engine(callbacks=callbacks, default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    model, data = grad(), datamodule(root)
    engine.fit(model, datamodule=data)
    results = engine.test(model, datamodule=data)[0]
    assert best.best_model_score == pytest.approx(results["mean/image_AUROC"])

    assert results.keys() >= COLUMNS | {"image_AUROC"}
    folder = Path(engine.trainer.default_root_dir)
    rows = {row["category"]: row for row in json.loads((folder / "per_category.json").read_text())}
    for category in ("bottle", "cookie", "mean"):
        for name in METRICS:
            assert rows[category][name] == pytest.approx(results[f"{category}/{name}"], abs=1e-6)
    assert rows["bottle"]["threshold"] == pytest.approx(model.post_processor.category_threshold("bottle"))
    assert (folder / "report.html").stat().st_size > 10_000

    (report,) = reports
    for record in report.records:
        assert record.global_coordinates.shape == (5, 2)
        assert record.local_coordinates.shape[1] == 2
        assert 0 < record.local_anomalous.sum() < len(record.local_anomalous)
        assert np.abs(record.local_coordinates).max() <= 1
        assert record.threshold == 0.5
        assert (len(record.best), len(record.worst), len(record.false_alarms)) == (3, 3, 2)
        assert record.best[0].mask.any()
    assert (report.local_resolution, report.global_resolution) == (8, 4)
    assert not any(module._forward_hooks for module in model.model.head.local_representation.modules())
    assert any("Thresholds are fitted for bottle, cookie" in note for note in report.notes)


def test_benchmark_has_a_column_for_every_metric_of_every_category(root: Path):
    own = PerCategoryEvaluator(test_metrics=[AUROC(["pred_score", "gt_label"], prefix="image_")])
    row = BenchmarkJob("cpu", grad(evaluator=own), datamodule(root), seed=0, flat_cfg={"model": "grad"}).run(
        task_id=None
    )
    table = BenchmarkJob.collect([row])
    assert set(table.columns) >= COLUMNS | {"image_AUROC", "fit_duration"}
    for name in METRICS:
        assert table[f"mean/{name}"][0] == pytest.approx((table[f"bottle/{name}"][0] + table[f"cookie/{name}"][0]) / 2)
