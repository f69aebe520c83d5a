# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Training without any anomalous image, on this package's data and on anomalib's."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator

from anomalib_grad.data import MultiCategory
from anomalib_grad.evaluation.metrics import RankRawScores
from anomalib_grad.lightning_model import Grad
from helpers import TINY, tiny, write_category

pytestmark = pytest.mark.slow


def engine(folder: Path) -> Engine:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=1, **quiet)


def test_normal_images_alone_give_thresholds_and_no_test(tmp_path: Path) -> None:
    for name in ("nut", "pin"):
        write_category(tmp_path / "data" / name, train=6, good=0, defects=0)
    data = MultiCategory(
        tmp_path / "data",
        test_split_mode="none",
        val_split_mode="from_train",
        val_split_ratio=0.5,
        train_batch_size=4,
        eval_batch_size=4,
        num_workers=0,
    )
    model = Grad(**TINY, false_alarm_rate=0.2)
    assert engine(tmp_path).train(model, datamodule=data) == []
    assert model.per_category is not None
    assert torch.isfinite(model.per_category.category_image_threshold).all()
    assert model.per_category.recogniser.fitted


def test_anomalibs_folder_without_validation_images_is_told_the_setting(tmp_path: Path) -> None:
    write_category(tmp_path / "nut", train=4, good=0, defects=0)
    splits = {"test_split_mode": "none", "val_split_mode": "none"}
    data = Folder("nut", root=tmp_path / "nut", normal_dir="train/good", num_workers=0, **splits)
    with pytest.raises(
        AttributeError,
        match=r"Folder has no validation images to fit thresholds on: .*val_split_mode='from_train', with Grad's",
    ):
        engine(tmp_path).fit(Grad(**TINY), datamodule=data)


def test_images_too_few_for_a_validation_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_category(tmp_path / "nut", train=8, good=0, defects=0)
    data = Folder("nut", root=tmp_path / "nut", normal_dir="train/good", num_workers=0)  # anomalib's default splits
    engine(tmp_path).fit(Grad(**tiny(mse_threshold=0.1)), datamodule=data)
    assert "no thresholds, so its labels mean nothing: there are no validation images; add images" in caplog.text


def test_validation_metrics_rank_raw_scores() -> None:
    metric = AUROC(["pred_score", "gt_label"], prefix="image_")
    model = Grad(**TINY, evaluator=Evaluator(val_metrics=[metric]))
    callbacks = model.configure_callbacks()
    for callback in callbacks:
        if isinstance(callback, RankRawScores):
            callback.setup(SimpleNamespace(callbacks=callbacks), model, "fit")
    scores, labels = torch.tensor([50.0, 60.0, 70.0]), torch.tensor([False, False, True])
    metric.update(ImageBatch(image=torch.zeros(3, 3, 4, 4), pred_score=scores, gt_label=labels))
    assert metric.compute() == 1.0
