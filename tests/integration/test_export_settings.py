# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Exports of models in half precision, of a fixed size, without a post-processor and without thresholds."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from PIL import Image

from anomalib_grad.adjustment import fit, set_threshold
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.lightning_model import Grad
from exports import EXACT, assert_same, infer, know_two_categories, knows_two_categories, picture, to_both
from helpers import TINY, as_if_trained, tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trusting")]


@pytest.fixture(scope="module")
def model() -> Grad:
    return knows_two_categories()


@pytest.mark.parametrize("size", [(7, -1), (0, 64), (64,), (64.5, 64)])
def test_an_export_for_images_of_no_size_is_refused(size: Any, tmp_path: Path):
    with pytest.raises(ValueError, match=r"input_size must be .* got \("):
        Grad(backbone="grad_tiny", fusion="small", image_size=(64, 64)).to_openvino(tmp_path, input_size=size)
    assert not list(tmp_path.rglob("model*"))


def test_a_half_precision_model_without_categories_exports_in_float32_and_stays_half(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    torch.manual_seed(0)
    model = Grad(**tiny(backbone="grad_tiny", mse_threshold=0.1)).half().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path, pickled = model.to_onnx(tmp_path), model.to_torch(tmp_path)
    assert "output" not in capfd.readouterr().err, "the exporter speaks of outputs that are none"
    assert model.dtype == torch.float16
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True, rtol=0, atol=0)  # dtype and device included

    inferencer = CategoryOpenVINOInferencer(path, device="CPU", config=EXACT)
    image = picture(96, 80)
    exported = inferencer.predict(image.astype(np.float32))  # uint8 would be resized in 8 bits
    assert inferencer.categories == []
    assert exported.explanation is None
    with pytest.raises(ValueError, match="does not know the category 'bottle'; it knows none, so give none"):
        inferencer.predict(image, category="bottle")
    assert_same(exported, infer(pickled, image))

    with pytest.raises(ValueError, match="no score range yet"):
        set_threshold(path, threshold=1.0)
    Image.fromarray(image).save(tmp_path / "image.png")
    score = fit(path, tmp_path / "image.png").threshold(None)
    for factor, anomalous in ((0.9, True), (1.1, False)):
        set_threshold(path, threshold=factor * score)
        assert bool(infer(path, tmp_path / "image.png").pred_label) is anomalous


def test_a_model_without_a_post_processor_exports_its_own_scores(tmp_path: Path):
    torch.manual_seed(0)
    model = Grad(**tiny(backbone="grad_tiny", mse_threshold=0.1), post_processor=False).eval()
    image = picture(64, 64).astype(np.float32)
    predicted = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    exported = infer(model.to_onnx(tmp_path), image)
    np.testing.assert_allclose(exported.pred_score.ravel(), predicted.pred_score, rtol=1e-3)
    np.testing.assert_allclose(exported.anomaly_map.squeeze(), predicted.anomaly_map.squeeze(), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def fixed(model: Grad, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports for images of 96 x 80 pixels alone."""
    return to_both(model, tmp_path_factory.mktemp("fixed"), input_size=(96, 80))


@pytest.mark.parametrize("kind", ["openvino", "onnx"])
def test_an_export_of_a_fixed_size_agrees_on_that_size(model: Grad, fixed: dict[str, Path], kind: str):
    path = fixed[kind]
    assert str(ov.Core().read_model(path).input(0).partial_shape) == "[?,3,96,80]"
    image = picture(96, 80)
    with torch.no_grad():
        predicted = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    assert_same(infer(path, image), predicted)
    inferencer = CategoryOpenVINOInferencer(path, device="CPU", config=EXACT)
    assert_same(inferencer.predict(image), predicted)
    with pytest.raises(
        ValueError, match=r"images of 96 x 80 pixels .* this image has 50 x 300; export the model without"
    ):
        inferencer.predict(picture(50, 300))
    refused, judged = inferencer.stream([picture(50, 300), image])
    assert "this image has 50 x 300" in str(refused.error)
    assert_same(judged.prediction, predicted)


@pytest.mark.parametrize(
    ("trained", "known", "said"),
    [
        (True, True, []),
        (True, False, ["the exported model has no threshold"]),
        (False, False, ["the model was never trained, so its scores mean nothing: give the checkpoint"]),
    ],
)
def test_a_model_that_judges_nothing_says_so_when_it_is_exported(
    trained: bool, known: bool, said: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = as_if_trained(Grad(**TINY)) if trained else Grad(**TINY)
    if known:
        know_two_categories(model)
    model.to_torch(tmp_path)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(said)
    assert all(warning.startswith(start) for warning, start in zip(warnings, said, strict=True))
