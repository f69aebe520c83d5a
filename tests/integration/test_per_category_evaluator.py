# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluator in real Trainers, in one process and in two, beside anomalib's own evaluator."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.metrics import AUPRO, AUROC, F1Max
from anomalib.metrics.evaluator import Evaluator
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_grad.data import CategoryImageBatch, CategoryImageItem
from anomalib_grad.evaluation import PerCategoryEvaluator
from anomalib_grad.evaluation.metrics import Predictions
from anomalib_grad.thresholds import PerCategoryPostProcessor

SIZE = 32
IMAGES = {"bottle": 9, "cookie": 7, "nut": 2, "screw": 1}  # an odd number, so that one of two processes repeats one
METRICS = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AUPRO")


def make_items(folder: Path, with_category: bool = True) -> list[CategoryImageItem]:
    """Grey images with a brighter block in every third one; the brightness of a category is its own."""
    generator = np.random.default_rng(0)
    items = []
    for offset, (category, count) in enumerate(IMAGES.items()):
        for index in range(count):
            anomalous = index % 3 == 1
            mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
            mask[4 : 8 + index, 6:20] = anomalous
            pixels = 60 * offset + 80 * generator.random((SIZE, SIZE)) + mask * 60 * generator.random()
            path = folder / f"{category}_{index}.png"
            Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(path)
            image = torch.from_numpy(pixels.astype(np.float32) / 255).expand(3, -1, -1)
            items.append(
                CategoryImageItem(
                    image=image,
                    image_path=str(path),
                    gt_label=torch.tensor(int(anomalous)),
                    gt_mask=torch.from_numpy(mask),
                    category=category if with_category else None,
                )
            )
    nuts = [item for item in items if item.image_path and "nut" in item.image_path]
    rest = [item for item in items if not any(item is nut for nut in nuts)]
    return [nuts[0], rest[0], nuts[1], *rest[1:]]  # every other image: one of two processes sees all nuts


class Brightness(LightningModule):
    """Scores a pixel by its brightness, with anomalib's callbacks in anomalib's order."""

    def __init__(self, post_processor: PostProcessor | None = None, evaluator: Evaluator | None = None) -> None:
        super().__init__()
        self.post_processor = post_processor or PostProcessor()
        self.evaluator = evaluator or anomalib_evaluator()

    def configure_callbacks(self) -> list[Callback]:
        return [self.post_processor, self.evaluator]

    def test_step(self, batch: CategoryImageBatch, batch_idx: int) -> CategoryImageBatch:
        anomaly_map = 3 * batch.image.mean(1, keepdim=True)  # raw scores leave [0, 1]
        return batch.update(anomaly_map=anomaly_map, pred_score=anomaly_map.flatten(1).quantile(0.9, dim=1))

    validation_step = test_step


def anomalib_evaluator() -> Evaluator:
    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    metrics = [AUROC(image, prefix="image_"), F1Max(image, prefix="image_")]
    return Evaluator(test_metrics=[*metrics, AUROC(pixel, prefix="pixel_"), AUPRO(pixel, prefix="pixel_")])


def make_trainer(folder: Path, *callbacks: Callback, **options: object) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[*callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


def loader(items: list[CategoryImageItem]) -> DataLoader:
    return DataLoader(items, batch_size=4, collate_fn=CategoryImageBatch.collate)


def run_test(folder: Path, module: Brightness, items: list[CategoryImageItem], *callbacks: Callback, **options: object):
    trainer = make_trainer(folder, *callbacks, **options)
    return trainer.test(module, loader(items), verbose=False)


def read(folder: Path) -> dict[str, dict[str, float]]:
    return {row["category"]: row for row in json.loads((folder / "per_category.json").read_text())}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[CategoryImageItem]:
    return make_items(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def fitted(items: list[CategoryImageItem], tmp_path_factory: pytest.TempPathFactory) -> Brightness:
    module = Brightness(PerCategoryPostProcessor())
    make_trainer(tmp_path_factory.mktemp("fit")).validate(module, loader(items), verbose=False)
    return module


@pytest.fixture(scope="module")
def one_process(fitted: Brightness, items: list[CategoryImageItem], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("one")
    return folder, run_test(folder, fitted, items, PerCategoryEvaluator())[0]


def test_equals_anomalibs_evaluator_on_each_category_alone(one_process, fitted, items, tmp_path: Path):
    _, logged = one_process
    for category in ("bottle", "cookie", "nut"):
        alone = [item for item in items if item.category == category]
        expected = run_test(tmp_path, fitted, alone, PerCategoryEvaluator(report=False))[0]
        for name in METRICS:
            assert logged[f"{category}/{name}"] == pytest.approx(expected[name], abs=1e-6)
    assert not list(tmp_path.iterdir()), "report=False writes nothing"


def test_logs_the_mean_beside_anomalibs_pooled_metrics(one_process):
    _, logged = one_process
    for name in METRICS:
        defined = [logged[f"{category}/{name}"] for category in ("bottle", "cookie", "nut")]
        assert logged[f"mean/{name}"] == pytest.approx(sum(defined) / 3)
        assert math.isnan(logged[f"screw/{name}"])
        assert name in logged
    assert logged["mean/pixel_AUROC"] != logged["pixel_AUROC"]


def test_files_hold_what_is_logged(one_process, fitted: Brightness):
    folder, logged = one_process
    with (folder / "per_category.csv").open(newline="") as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["bottle", "cookie", "nut", "screw", "mean"]
    sizes = {name: (int(row["n_normal"]), int(row["n_anomalous"])) for name, row in rows.items()}
    assert sizes == {"bottle": (6, 3), "cookie": (5, 2), "nut": (1, 1), "screw": (1, 0), "mean": (13, 6)}
    for category in ("bottle", "cookie", "mean"):
        for name in METRICS:
            assert float(rows[category][name]) == pytest.approx(logged[f"{category}/{name}"])
            assert read(folder)[category][name] == pytest.approx(logged[f"{category}/{name}"])
    assert float(rows["cookie"]["threshold"]) == pytest.approx(fitted.post_processor.category_threshold("cookie"))
    assert float(rows["cookie"]["threshold"]) != pytest.approx(float(rows["bottle"]["threshold"]))
    assert rows["mean"]["threshold"] == ""
    page = (folder / "report.html").read_text()
    assert "cookie" in page
    assert "No image metrics for screw" in page


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(one_process, fitted: Brightness, items, tmp_path: Path):
    run_test(tmp_path, fitted, items, PerCategoryEvaluator(), devices=2, strategy="ddp_spawn")
    expected, found = read(one_process[0]), read(tmp_path)
    assert list(found) == list(expected)
    for category, row in expected.items():
        assert found[category] == pytest.approx(row, abs=1e-6)


def test_sees_scores_after_the_post_processor(fitted: Brightness, items, tmp_path: Path):
    seen = {}

    class Watching(PerCategoryEvaluator):
        def on_test_batch_end(self, *args, **kwargs):
            super().on_test_batch_end(*args, **kwargs)
            batch = args[3]
            seen["in range"] = bool((batch.pred_score <= 1).all() and batch.pred_label is not None)

    run_test(tmp_path, fitted, items, Watching(report=False))
    assert seen == {"in range": True}


class Monitor(Callback):
    """Selects by a metric, as EarlyStopping and ModelCheckpoint do."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor


ASKING = ["mean/image_AUROC", "nut/pixel_AUPRO"]
MISSPELT = ["image_AUROC", "mean/image_auroc", "nut/pixel_AUPRC"]  # after which Lightning lists what there is


@pytest.mark.parametrize("monitor", [*ASKING, *MISSPELT, "train_loss"])
def test_validation_has_the_figures_of_the_test_where_a_callback_asks(
    one_process, fitted: Brightness, items, tmp_path: Path, monitor: str
):
    _, tested = one_process
    evaluator = PerCategoryEvaluator(binned=10)  # of the test: raw maps have no range
    trainer = make_trainer(tmp_path, Monitor(monitor), evaluator)
    validated = trainer.validate(fitted, loader(items), verbose=False)[0]
    own = {name for name in validated if "/" in name}
    asked = METRICS if monitor == "nut/pixel_AUPRO" else METRICS[:2]
    names = {f"{category}/{name}" for category in (*IMAGES, "mean") for name in METRICS}
    assert own == (set() if monitor == "train_loss" else names)
    for name in own:
        expected = tested[name] if name.split("/")[1] in asked else math.nan
        assert validated[name] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert not list(tmp_path.iterdir())


def test_idles_without_categories(tmp_path: Path):
    (tmp_path / "images").mkdir()
    items = make_items(tmp_path / "images", with_category=False)
    logged = run_test(tmp_path / "out", Brightness(), items, PerCategoryEvaluator())[0]
    assert set(logged) == set(METRICS)
    assert not (tmp_path / "out").exists()


def test_one_of_several_evaluators_works(fitted: Brightness, items, tmp_path: Path):
    first, second = PerCategoryEvaluator(binned=1000, report=False), PerCategoryEvaluator()
    logged = run_test(tmp_path, fitted, items, first, second)[0]
    assert "cookie/pixel_AUPRO" in logged
    assert not list(tmp_path.iterdir()), "the second one, with a report, has stood aside"


def test_as_the_models_own_evaluator_it_keeps_its_pooled_metrics(fitted: Brightness, items, tmp_path: Path):
    own = PerCategoryEvaluator(test_metrics=[AUROC(["pred_score", "gt_label"], prefix="image_")])
    module = Brightness(fitted.post_processor, own)
    logged = run_test(tmp_path, module, items, PerCategoryEvaluator(report=False))[0]
    assert {"image_AUROC", "cookie/image_AUROC"} <= set(logged)
    assert (tmp_path / "report.html").exists()


def test_leaves_no_state_in_checkpoints():
    evaluator = PerCategoryEvaluator()
    evaluator._metrics.update("a", _two_images())
    assert not evaluator.state_dict()


def test_names_what_is_wrong(fitted: Brightness, items, tmp_path: Path):
    renamed = [item.update(in_place=False, category="mean") for item in items]
    with pytest.raises(ValueError, match="Rename the category 'mean'"):
        run_test(tmp_path, fitted, renamed, PerCategoryEvaluator())
    assert not any(module._forward_hooks for module in fitted.modules())


def _two_images():
    return Predictions(
        torch.rand(2), torch.tensor([False, True]), torch.rand(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    )
