# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What anomalib promises of each of its models, through the Engine: predictions, precision, sizes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch, MVTecAD, PredictDataset
from anomalib.engine import Engine

from anomalib_grad import Grad
from anomalib_grad.training.unusable_weights import DivergenceError
from helpers import write_category

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "backbone": "grad_tiny",
    "image_size": (64, 64),
    "fusion": "small",
    "method": {"num_blocks": 0},
    "map": {"smoothing_window": 5, "score_window": 8},
}
"""A Grad with as few operations as it can have."""


def engine(folder: Path, **options: Any) -> Engine:
    options = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False} | options
    return Engine(default_root_dir=folder, enable_progress_bar=False, **options)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory, for OpenVINO's cache, with one product."""
    folder = tmp_path_factory.mktemp("promises")
    write_category(folder / "data/nut", train=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def datamodule(folder: Path) -> MVTecAD:
    return MVTecAD(folder / "data", "nut", train_batch_size=3, eval_batch_size=2, num_workers=0)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    """The checkpoint of ``Engine.train``, which fits and tests."""
    torch.manual_seed(0)
    trainer = engine(folder / "train")
    metrics = trainer.train(Grad(**SMALL), datamodule=datamodule(folder))[0]
    assert metrics.keys() == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert all(0 <= value <= 1 for value in metrics.values())
    return Path(trainer.best_model_path)


Source = Callable[[Path], dict[str, Any]]
SOURCES: dict[str, Source] = {
    "datamodule": lambda folder: {"datamodule": datamodule(folder)},
    "dataset": lambda folder: {"dataset": PredictDataset(folder / "data/nut/test")},
    "folder": lambda folder: {"data_path": folder / "data/nut/test"},
    "image": lambda folder: {"data_path": folder / "data/nut/test/spot/000.png"},
}


@pytest.fixture(scope="module")
def alone(checkpoint: Path, folder: Path) -> ImageBatch:
    """The prediction of one image."""
    image = folder / "data/nut/test/spot/000.png"
    (batch,) = engine(folder / "alone").predict(Grad(**SMALL), ckpt_path=checkpoint, data_path=image)
    assert isinstance(batch, ImageBatch)
    return batch


@pytest.mark.parametrize("source", SOURCES)
def test_predicts_from_whatever_anomalib_takes(checkpoint: Path, folder: Path, alone: ImageBatch, source: str) -> None:
    batches = engine(folder / source).predict(Grad(**SMALL), ckpt_path=checkpoint, **SOURCES[source](folder))
    scores = {path: score for batch in batches for path, score in zip(batch.image_path, batch.pred_score, strict=True)}
    assert len(scores) == (1 if source == "image" else 4)
    assert all(0 <= score <= 1 for score in scores.values())
    assert alone.anomaly_map.shape[-2:] == (64, 64)
    known = str(folder / "data/nut/test/spot/000.png")
    assert scores[known] == pytest.approx(alone.pred_score.item(), abs=1e-5)


def test_validates_from_a_checkpoint(checkpoint: Path, folder: Path) -> None:
    model = Grad(**SMALL)
    engine(folder / "validate").validate(model, datamodule=datamodule(folder), ckpt_path=checkpoint)
    assert torch.isfinite(model.post_processor.image_threshold)
    assert torch.isfinite(model.post_processor.pixel_threshold)


def test_trains_and_tests_in_mixed_precision(folder: Path) -> None:
    model = Grad(**SMALL)
    metrics = engine(folder / "mixed", precision="bf16-mixed").train(model, datamodule=datamodule(folder))[0]
    assert all(0 <= value <= 1 for value in metrics.values())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_trains_and_tests_with_weights_of_another_precision(folder: Path, precision: str, dtype: torch.dtype) -> None:
    model = Grad(**SMALL)
    metrics = engine(folder / precision, precision=precision).train(model, datamodule=datamodule(folder))[0]
    assert all(0 <= value <= 1 for value in metrics.values())
    assert {parameter.dtype for parameter in model.model.parameters()} == {dtype}


def test_weights_that_are_no_numbers_are_neither_validated_nor_saved(folder: Path) -> None:
    model = Grad(**SMALL)
    with pytest.raises(DivergenceError, match=r"training diverged in epoch 0: model\.head\..* is no longer finite"):
        engine(folder / "diverged", precision="16-true").train(model, datamodule=datamodule(folder))
    assert not list((folder / "diverged").rglob("*.ckpt"))


@pytest.mark.parametrize("image_size", [(64, 96), (80, 48)])
def test_trains_and_tests_at_every_size_and_shape(folder: Path, image_size: tuple[int, int]) -> None:
    model = Grad(**SMALL | {"image_size": image_size})
    trainer = engine(folder / "size")
    trainer.train(model, datamodule=datamodule(folder))
    predictions = trainer.predict(model, data_path=folder / "data/nut/test/good")
    assert {batch.anomaly_map.shape[-2:] for batch in predictions} == {image_size}


def test_a_pre_processor_for_another_size_is_had_as_from_anomalibs_models() -> None:
    images = torch.rand(1, 3, 100, 100)
    model = Grad(
        backbone="vit_tiny_patch16_224.augreg_in21k", pre_trained=False, fusion="small", method={"num_blocks": 0}
    )
    for pre_processor, size, mean in (
        (Grad.configure_pre_processor((96, 64)), (96, 64), [0.485, 0.456, 0.406]),
        (model.configure_pre_processor((96, 64)), (96, 64), [0.5] * 3),
        (model.configure_pre_processor(), (224, 224), [0.5] * 3),
    ):
        resize, normalize = pre_processor.transform.transforms
        assert resize.size == list(size)
        assert normalize.mean == pytest.approx(mean)
        torch.testing.assert_close(pre_processor(images), pre_processor.transform(images), atol=1e-4, rtol=0)
