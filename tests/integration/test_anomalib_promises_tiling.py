# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's tiling of large images: with its callback, and with a model for each tile."""

from pathlib import Path
from typing import Any

import anomalib.models
import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.data import MVTecAD
from anomalib.data.utils.tiler import Tiler
from anomalib.engine import Engine
from anomalib.pipelines.components import Pipeline
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble

from anomalib_grad import Grad
from anomalib_grad.backbone import FrozenBackbone
from anomalib_grad.files.configuration import CheckpointConfigurationError
from helpers import TINY, write_category

pytestmark = pytest.mark.slow

LARGE = {**TINY, "image_size": (64, 128)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiling")
    write_category(root / "nut", train=6, side=96)
    return root


def run(folder: Path, stage: str, model: Grad, root: Path, tile: int | None = None, **arguments: Any) -> Engine:
    """Fit or test, with tiles of a side of ``tile`` pixels if it is given."""
    callbacks = [] if tile is None else [TilerConfigurationCallback(enable=True, tile_size=tile, stride=tile)]
    engine = Engine(callbacks=callbacks, max_epochs=2, default_root_dir=folder, accelerator="cpu", logger=False)
    data = MVTecAD(root, "nut", train_batch_size=3, eval_batch_size=2, num_workers=0)
    getattr(engine, stage)(model, datamodule=data, **arguments)
    return engine


@pytest.fixture(scope="module")
def tiled(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model trained with tiles of 32 pixels."""
    torch.manual_seed(0)
    return Path(run(tmp_path_factory.mktemp("tiled"), "fit", Grad(**LARGE), data, tile=32).best_model_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_tile_has_the_features_that_it_has_alone(dtype: torch.dtype) -> None:
    backbone = FrozenBackbone("resnet18", pre_trained=False, image_size=(64, 96)).to(dtype)
    images = torch.rand(2, 3, 64, 96, dtype=dtype)
    backbone.tiler = Tiler(tile_size=32, stride=32)
    whole = backbone.feature_maps(images)
    backbone.tiler = None
    alone = backbone.feature_maps(images[..., 32:64, 64:96].contiguous())
    for feature_map, of_tile in zip(whole, alone, strict=True):
        side = of_tile.shape[-1]
        torch.testing.assert_close(feature_map[..., side : 2 * side, 2 * side : 3 * side], of_tile)
        assert feature_map.dtype == dtype


def test_a_checkpoint_brings_its_tiles_along(tiled: Path, data: Path, tmp_path: Path) -> None:
    model = Grad.load_from_checkpoint(tiled).eval()
    assert (model.model.tiler.tile_size_h, model.model.tiler.stride_w) == (32, 32)
    fresh = Grad(**LARGE)
    run(tmp_path, "test", fresh, data, ckpt_path=tiled)
    images = torch.rand(2, 3, 70, 90)
    assert torch.equal(fresh.eval()(images).anomaly_map, model(images).anomaly_map)
    model.model.backbone.tiler = None
    assert not torch.equal(fresh(images).anomaly_map, model(images).anomaly_map)


def test_other_tiles_than_those_of_the_training_are_refused(tiled: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointConfigurationError,
        match=r"tiling is .*\[32, 32\].* in the checkpoint but .*\[64, 64\].* in this model",
    ):
        run(tmp_path, "test", Grad(**LARGE), data, tile=64, ckpt_path=tiled)
    loaded = Grad.load_from_checkpoint(tiled)
    with pytest.raises(ValueError, match=r"trained on tiles of 32 x 32 .* and would see tiles of 64 x 64 .* new model"):
        run(tmp_path, "test", loaded, data, tile=64)
    run(tmp_path, "test", loaded, data, tile=32)


def test_tiles_have_a_cache_of_their_own_on_disk(data: Path, tmp_path: Path) -> None:
    cached = {**LARGE, "feature_cache": "disk", "cache": {"folder": tmp_path / "cache"}}
    for tile in (None, 32, 64, 32):
        torch.manual_seed(0)  # the same backbone each time
        run(tmp_path, "fit", Grad(**cached), data, tile=tile)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3


@pytest.mark.parametrize(
    ("backbone", "tile", "problem"),
    [
        ("resnet18", 24, "24 x 24 pixels every 24 x 24 cut through cells .* multiples of 16"),
        ("resnet18", 64, "64 x 64 pixels every 64 x 64 do not fit exactly into the model's input of 96 x 96 pixels"),
        ("resnet18", 128, "128 x 128 pixels are larger than the model's input of 96 x 96"),
        ("vit_tiny_patch16_224", 48, "takes images of one size only, so it cannot use tiles"),
    ],
)
def test_tiles_that_do_not_fit_are_refused_in_a_sentence(backbone: str, tile: int, problem: str) -> None:
    network = FrozenBackbone(backbone, pre_trained=False, image_size=(96, 96))
    with pytest.raises(ValueError, match=problem):
        network.tiler = Tiler(tile_size=tile, stride=tile)


class SmallByDefault(Grad):
    """anomalib 2.7's tiled ensemble cannot pass a model's arguments on, neither Grad's nor those of its own models."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**TINY | arguments)


def run_pipeline(pipeline: Pipeline, configuration: dict[str, Any]) -> Any:  # what the last stage gives
    """Run the stages one after another, as the pipeline does when its command starts it."""
    result = None
    for runner in pipeline._setup_runners(configuration):
        result = runner.run(configuration.get(runner.generator.job_class.name, {}), result)
    return result


def test_the_tiled_ensemble_trains_and_evaluates_a_model_for_each_tile(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anomalib.models, "Grad", SmallByDefault)
    dataset = {"root": str(data), "category": "nut", "train_batch_size": 3, "eval_batch_size": 2, "num_workers": 0}
    splits = {"val_split_mode": "same_as_test", "test_split_mode": "from_dir"}
    side, height, width = TINY["image_size"][0], 2, 1
    configuration = {
        "seed": 0,
        "accelerator": "cpu",
        "default_root_dir": str(tmp_path),
        "tiling": {"image_size": [height * side, width * side], "tile_size": [side, side], "stride": side},
        "normalization_stage": "image",
        "thresholding_stage": "image",
        "data": {"class_path": "MVTecAD", "init_args": dataset | splits},
        "SeamSmoothing": {"apply": True, "sigma": 2, "width": 0.1},
        "TrainModels": {"model": {"class_path": "Grad"}, "trainer": {"max_epochs": 1}},
    }
    training = TrainTiledEnsemble()
    run_pipeline(training, configuration)
    checkpoints = {path.name for path in training.root_dir.rglob("*.ckpt")}
    assert checkpoints == {f"model{row}_{column}.ckpt" for row in range(height) for column in range(width)}
    metrics = run_pipeline(EvalTiledEnsemble(training.root_dir), configuration)
    assert metrics.keys() == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert all(0 <= value <= 1 for value in metrics.values())
