# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Compressed exports through anomalib's engine: calibrated, INT8 where it may be and nowhere else."""

import logging
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from anomalib.metrics import AUROC
from lightning.pytorch.callbacks import EarlyStopping

from anomalib_grad.adjustment import set_threshold
from anomalib_grad.adjustment.model_files import open_model
from anomalib_grad.data import MultiCategory
from anomalib_grad.deploy import CategoryOpenVINOInferencer, quantization
from anomalib_grad.lightning_model import Grad
from exports import traced
from helpers import TINY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trusting")]

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
HALF_PRECISION = 5e-3
"""Deviation of a score in [0, 1] allowed to weights in half precision; 1.4e-3 was measured here."""


def datamodule(shop: Path) -> MultiCategory:
    return MultiCategory(root=shop, train_batch_size=4, eval_batch_size=3, num_workers=0, seed=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Trains until it is stopped early, after one epoch."""
    return Engine(
        callbacks=[EarlyStopping("train_loss", stopping_threshold=1e9)],
        default_root_dir=tmp_path_factory.mktemp("results"),
        accelerator="cpu",
        devices=1,
        max_epochs=100,
        logger=False,
        enable_progress_bar=False,
    )


@pytest.fixture(scope="module")
def model(shop: Path, engine: Engine) -> Grad:
    torch.manual_seed(0)
    model = Grad(**TINY | {"backbone": "grad_tiny"})
    engine.fit(model, datamodule=datamodule(shop))
    model.post_processor.recogniser.radius *= 3  # six images that are nearly the same do not bear rounding
    return model


@pytest.fixture(scope="module")
def exact(model: Grad, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.to_onnx(tmp_path_factory.mktemp("exact"))


def quantised(model: ov.Model) -> list[str]:
    """Names of the operations that read values rounded to 8 bits, activations or weights."""
    rounded = [op for op in model.get_ops() if op.get_type_name() == "FakeQuantize"]
    return [
        consumer.get_node().get_friendly_name()
        for op in rounded
        for consumer in op.output(0).get_target_inputs()
        if "Convolution" in consumer.get_node().get_type_name() or consumer.get_node().get_type_name() == "MatMul"
    ]


def constant_bytes(model: ov.Model) -> int:
    return sum(op.data.nbytes for op in model.get_ops() if op.get_type_name() == "Constant")


def scores(model: Path, shop: Path) -> dict[str, tuple[float, list[str]]]:
    inferencer = CategoryOpenVINOInferencer(model, device="CPU")
    predictions = {path.name: inferencer.predict(path) for path in sorted(shop.glob("*/test/good/*.png"))}
    return {name: (batch.pred_score.item(), batch.explanation) for name, batch in predictions.items()}


def assert_close(compressed: dict[str, tuple[float, list[str]]], exact: dict[str, tuple[float, list[str]]]) -> None:
    for name, (score, category) in exact.items():
        assert compressed[name][0] == pytest.approx(score, abs=0.1)
        assert compressed[name][1] == category
    assert compressed != exact  # something was rounded


def test_a_calibration_without_validation_images_asks_for_some(shop: Path) -> None:
    data = MultiCategory(root=shop, num_workers=0, val_split_mode="none")
    with pytest.raises(ValueError, match=r"MultiCategory has none: give it val_split_mode='same_as_test'"):
        quantization.calibration_images(ov.Model([], []), data)


@pytest.mark.parametrize("kind", [CompressionType.INT8_PTQ, CompressionType.INT8_ACQ])
def test_missing_images_for_a_calibration_are_asked_for_before_the_export(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: CompressionType
) -> None:
    monkeypatch.setattr(Grad, "to_onnx", lambda *_, **__: pytest.fail("this takes a minute"))
    model = Grad(**TINY | {"backbone": "grad_tiny"})
    for data in (None, MultiCategory(root=shop, num_workers=0, val_split_mode="none")):
        with pytest.raises(ValueError, match="INT8_PTQ and INT8_ACQ calibrate on"):
            model.to_openvino(tmp_path, compression_type=kind, datamodule=data)
    assert not list(tmp_path.iterdir())


def test_loud_channels_of_a_transformer_do_not_drown_the_others_in_8_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Grad("plus", backbone="vit_tiny_patch16_224", pre_trained=False, image_size=(64, 64))
    with torch.no_grad():
        for parameter in model.model.head.parameters():
            parameter.add_(0.01)  # what nobody trained is not exported
        for block in model.model.backbone.network.modules():
            if hasattr(block, "attn"):  # what is louder here is heard less there: the features stay as they are
                for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                    norm.weight[7] *= 200
                    linear.weight[:, 7] /= 200
    exact = ov.Core().read_model(model.to_openvino(tmp_path))
    images = [torch.rand(1, 3, 64, 64).numpy() for _ in range(10)]
    monkeypatch.setattr(quantization, "calibration_images", lambda *_: nncf.Dataset(images))
    rounded = quantization.quantize(exact.clone(), datamodule=None)

    def maps(graph: ov.Model) -> np.ndarray:
        compiled = ov.Core().compile_model(graph, "CPU", EXACT)
        return np.stack([compiled(image)["anomaly_map"].copy() for image in images])

    right, error = maps(exact), np.abs(maps(rounded) - maps(exact))
    assert 0 < error.mean() < 0.05 * right.std()  # 0.12 where channels are rounded as they are


def test_strictness_set_after_training_holds_here_and_in_later_exports(
    model: Grad, exact: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = torch.stack([read_image(path, as_tensor=True) for path in sorted(shop.glob("*/test/*/*.png"))])
    model.eval()
    with torch.no_grad():
        lowest = model(images).pred_score.sort().values[:4]  # those of the good images
        place = int(lowest.diff().argmax())
        least = float(lowest[place : place + 2].mean())
        monkeypatch.setattr(model.post_processor, "image_sensitivity", 1 - least)
        strict = model(images)
    file = model.to_onnx(tmp_path)
    later = CategoryOpenVINOInferencer(file, device="CPU", config=EXACT).predict(images)
    before = CategoryOpenVINOInferencer(exact, device="CPU", config=EXACT).predict(images)
    for exported, level in ((later, least), (before, 0.5)):
        np.testing.assert_allclose(exported.pred_score.ravel(), strict.pred_score, atol=1e-3)
        assert exported.pred_label.ravel().tolist() == (strict.pred_score > level).tolist()
    assert strict.pred_label.tolist() == later.pred_label.ravel().tolist()
    assert 0 < before.pred_label.sum() < later.pred_label.sum()

    nut = shop / "nut/test/good/000.png"
    score = open_model(file).score(nut, "nut").score
    for factor, anomalous in ((0.9, True), (1.1, False)):  # a threshold that is set is that, however strict the model
        set_threshold(file, "nut", threshold=factor * score)
        judged = CategoryOpenVINOInferencer(file, device="CPU").predict(nut)
        assert judged.pred_label.item() is anomalous


def test_the_engine_quantises_with_a_datamodule(model: Grad, engine: Engine, shop: Path, exact: Path, tmp_path: Path):
    with traced(model, exact):
        path = engine.export(
            model, "openvino", export_root=tmp_path, compression_type="int8_ptq", datamodule=datamodule(shop)
        )
    graph = ov.Core().read_model(path)
    names = quantised(graph)
    assert len(names) > 10
    assert all(name.startswith(("model.backbone/", "model.head.fusion.blocks.")) for name in names)
    assert any(name.startswith("model.head.fusion.blocks.") for name in names)
    assert [output.get_any_name() for output in graph.outputs] == [
        "pred_score",
        "pred_label",
        "anomaly_map",
        "pred_mask",
    ]
    assert_close(scores(path, shop), scores(exact, shop))


def test_half_precision_halves_the_file_and_hardly_moves_a_score(
    model: Grad, engine: Engine, shop: Path, exact: Path, tmp_path: Path
):
    with traced(model, exact):
        path = engine.export(model, "openvino", export_root=tmp_path, compression_type="fp16")
    weights = 4 * sum(parameter.numel() for parameter in model.model.parameters())
    assert path.with_suffix(".bin").stat().st_size < 0.55 * weights
    half, single = (CategoryOpenVINOInferencer(file, device="CPU", config=EXACT) for file in (path, exact))
    images = sorted(shop.glob("*/test/*/*.png"))
    ours, theirs = ([inferencer.predict(image) for image in images] for inferencer in (half, single))
    scores = np.array([[batch.pred_score.item() for batch in batches] for batches in (ours, theirs)])
    assert 0 < np.abs(scores[0] - scores[1]).max() < HALF_PRECISION
    assert [batch.explanation for batch in ours] == [batch.explanation for batch in theirs]
    sure = np.abs(scores[1] - 0.5) > HALF_PRECISION  # the threshold lies on an image of the validation set
    labels = np.array([[batch.pred_label.item() for batch in batches] for batches in (ours, theirs)])
    assert set(labels[1, sure]) == {False, True}
    assert (labels[0, sure] == labels[1, sure]).all()


def test_accuracy_control_measures_the_metric_and_gives_back_what_costs_too_much(
    model: Grad, engine: Engine, shop: Path, exact: Path, tmp_path: Path
):
    calls = []

    class Counted(AUROC):
        def compute(self) -> torch.Tensor:
            value = super().compute()
            calls.append(float(value))
            return value

    metric = Counted(fields=["pred_score", "gt_label"])
    with traced(model, exact):
        path = engine.export(
            model,
            "openvino",
            export_root=tmp_path,
            compression_type="int8_acq",
            datamodule=datamodule(shop),
            metric=metric,
            max_drop=1.0,
        )
    assert len(calls) >= 2  # before and after
    assert all(0 <= value <= 1 for value in calls)
    assert quantised(ov.Core().read_model(path))
    assert_close(scores(path, shop), scores(exact, shop))


def test_the_engine_stores_weights_in_8_bits(model: Grad, engine: Engine, shop: Path, exact: Path, tmp_path: Path):
    with traced(model, exact):
        path = engine.export(model, "openvino", export_root=tmp_path, compression_type="int8")
    assert constant_bytes(ov.Core().read_model(path)) < 0.4 * constant_bytes(ov.convert_model(exact))
    assert_close(scores(path, shop), scores(exact, shop))


def test_calibration_images_come_from_all_categories(
    shop: Path, exact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(quantization, "CALIBRATION_IMAGES", 4)
    images = list(quantization.calibration_images(ov.convert_model(exact), datamodule(shop)).get_inference_data())
    assert [image.shape for image in images] == [(1, 3, 72, 72)] * 4
    data = datamodule(shop)
    data.setup("fit")
    every = [item.image.numpy() for item in data.val_data]
    half = len(every) // 2
    origin = [next(i for i, known in enumerate(every) if np.array_equal(known, image[0])) for image in images]
    assert origin[0] == 0
    assert origin[1] < half <= origin[2]
    assert origin[3] == len(every) - 1

    monkeypatch.setattr(quantization, "CALIBRATION_IMAGES", 300)
    with caplog.at_level(logging.WARNING):
        quantization.calibration_images(ov.convert_model(exact), datamodule(shop))
    assert f"on {len(every)} validation images; 300 are recommended" in caplog.text


def test_bad_arguments_are_refused_in_one_sentence(shop: Path, exact: Path, model: Grad):
    graph = ov.convert_model(exact)
    with pytest.raises(ValueError, match="pass a datamodule"):
        quantization.quantize(graph, None)
    with pytest.raises(ValueError, match="max_drop must be from 0 to 1"):
        quantization.quantize_with_accuracy_control(graph, datamodule(shop), max_drop=2)
    with pytest.raises(TypeError, match="Pass a metric object"):
        quantization.quantize_with_accuracy_control(graph, datamodule(shop), "F1Score")
    with pytest.raises(ValueError, match="fp16"):
        model._compress_ov_model(graph, "int4")
