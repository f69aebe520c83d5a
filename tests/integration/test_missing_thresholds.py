# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A model without thresholds says why it has none, and gives advice that helps where it is given."""

import logging
from pathlib import Path

import numpy as np
import pytest
from anomalib.engine import Engine
from PIL import Image

from anomalib_grad.data import MultiCategory
from anomalib_grad.lightning_model import Grad
from helpers import TINY, as_if_trained

TAKE = "take test images for validation (val_split_mode='same_as_test' or 'from_test')"


def engine(folder: Path, **options: object) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet, **options)


def data(root: Path, **options: object) -> MultiCategory:
    return MultiCategory(root=root, eval_batch_size=4, num_workers=0, **options)


def own(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package has warned of since it was last asked."""
    found = [
        record.message
        for record in caplog.records
        if record.name.startswith("anomalib_grad") and record.levelno == logging.WARNING
    ]
    caplog.clear()
    return found


def test_data_without_validation_images_are_the_reason_and_get_some(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    model, run, images = as_if_trained(Grad(**TINY)), engine(tmp_path), data(shop, val_split_mode="none")
    model.post_processor.set_categories(["nut"])  # none of the test images' categories has a threshold, known or not
    run.test(model, datamodule=images)
    (said,) = own(caplog)
    assert said.startswith(
        "The model has no thresholds, so its labels mean nothing: there are no validation images; take"
    )
    assert TAKE in said
    printed = capsys.readouterr().out
    assert "No threshold is known for nut, pin: validate the model." in printed
    assert "pooled" not in printed
    run.validate(model, datamodule=images)
    (said,) = own(caplog)
    assert said.startswith(f"there are no validation images: {TAKE}")
    run.validate(model, datamodule=data(shop, val_split_mode="same_as_test"))
    run.test(model, datamodule=images)
    assert not own(caplog), "the advice helps"
    assert "Thresholds are fitted for nut, pin" in capsys.readouterr().out


def test_a_limit_of_no_validation_batches_is_the_reason(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = as_if_trained(Grad(**TINY))
    engine(tmp_path, limit_val_batches=0).predict(model, datamodule=data(shop))
    assert "mean nothing: limit_val_batches is 0; remove it and run engine.validate" in caplog.text


def test_products_without_a_threshold_are_named_beside_one_that_has_one(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = as_if_trained(Grad(**TINY))
    model.post_processor.set_categories(["nut", "pin"])
    model.post_processor.category_image_threshold[0] = 1.0  # as fitted on images of the line
    engine(tmp_path).predict(model, datamodule=data(shop))
    said = "The model has no threshold for pin, unknown, so its labels for these mean nothing: no validation"
    assert said in caplog.text


def test_a_validation_of_some_products_leaves_the_threshold_of_unknown_ones(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, run = as_if_trained(Grad(**TINY)), engine(tmp_path)
    run.validate(model, datamodule=data(shop))
    fitted = model.post_processor.image_thresholds.clone()
    own(caplog)
    model.post_processor.category_image_threshold.add_(1.0)
    run.validate(model, datamodule=data(shop, categories=["pin"]))
    nut, pin, unknown = model.post_processor.image_thresholds - fitted
    assert (nut, pin, unknown) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-6), 0)
    (said,) = own(caplog)
    assert said.startswith("The validation data hold no images of nut, ")


def test_thresholds_that_are_switched_off_are_not_missed(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    model = as_if_trained(Grad(**TINY))
    model.post_processor.enable_thresholding = False
    engine(tmp_path).test(model, datamodule=data(shop))
    assert "no threshold" not in caplog.text
    printed = " ".join(capsys.readouterr().out.split())
    assert "There are no thresholds: the model's post-processor has enable_thresholding=False." in printed
    (said,) = own(caplog)
    assert said == "Labels are switched off, so these figures are not computed: image_F1Score, pixel_F1Score."


def test_a_model_without_a_post_processor_has_the_figures_of_its_scores(shop: Path, tmp_path: Path) -> None:
    (figures,) = engine(tmp_path).test(as_if_trained(Grad(**TINY, post_processor=False)), datamodule=data(shop))
    assert {"image_AUROC", "pixel_AUROC", "mean/image_AUROC"} <= figures.keys()
    assert not [name for name in figures if "F1Score" in name]


def test_a_model_that_knows_no_product_yet_learns_of_them_as_it_is_told_to(shop: Path, tmp_path: Path) -> None:
    """As one of the authors', whose files name none."""
    mask = tmp_path / "ignore.png"
    Image.fromarray(np.tile(np.repeat(np.uint8([255, 0]), 36), (72, 1))).save(mask)
    model, run = as_if_trained(Grad(**TINY, category="nut")), engine(tmp_path)
    with pytest.raises(
        ValueError, match="knows none yet, so train or validate it on data with categories first, without `category`"
    ):
        run.validate(model, datamodule=data(shop))
    model.post_processor.category = None
    with pytest.raises(ValueError, match=r"does not distinguish: .* validate it without the mask first"):
        run.validate(model, datamodule=data(shop, ignore={"nut": str(mask)}))
    run.validate(model, datamodule=data(shop))
    run.validate(model, datamodule=data(shop, ignore={"nut": str(mask)}))
    model.post_processor.category = "nut"
    run.predict(model, data_path=shop / "nut/test/good")
    assert model.model.ignored is not None
