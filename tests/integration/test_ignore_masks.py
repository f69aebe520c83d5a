# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a product's mask ignores is not judged: in training, test, checkpoint, exports, and beside other models."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import Folder
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from anomalib_grad.data import CategoryImageBatch, MultiCategory
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.deploy.checksum import seal
from anomalib_grad.deploy.quantization import quantize
from anomalib_grad.evaluation import PerCategoryEvaluator
from anomalib_grad.lightning_model import Grad
from helpers import TINY


@pytest.fixture(scope="module")
def masked_shop(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop, in which the left half of nuts, where all their defects are, does not matter."""
    root = tmp_path_factory.mktemp("masked") / "shop"
    shutil.copytree(shop, root)
    mask = np.zeros((20, 40), dtype=np.uint8)
    mask[:, :20] = 255
    Image.fromarray(mask).save(root / "nut/ignore.png")
    return root


class Run(NamedTuple):
    model: Grad
    checkpoint: Path
    results: Path


@pytest.fixture(scope="module")
def run(masked_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A Grad that was trained and tested on the shop with the mask."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = Grad(**{**TINY, "backbone": "grad_tiny", "pre_trained": True, "map": {**TINY["map"], "scaled": True}})
    data = MultiCategory(root=masked_shop, train_batch_size=4, eval_batch_size=4, num_workers=0)
    engine = Engine(max_epochs=1, default_root_dir=folder, accelerator="cpu", devices=1, logger=False)
    engine.fit(model, datamodule=data)
    engine.trainer.save_checkpoint(folder / "grad.ckpt")
    engine.test(model, datamodule=data)
    return Run(model.eval(), folder / "grad.ckpt", Path(engine.trainer.default_root_dir))


def image_of(root: Path, product: str) -> Path:
    return root / product / "test/spot/000.png"


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path))).permute(2, 0, 1)[None] / 255


def predict(model: Grad, path: Path, category: str) -> Any:
    model.post_processor.category = category
    try:
        return model(pixels(path))
    finally:
        model.post_processor.category = None


def test_the_map_is_0_where_the_product_ignores_and_there_alone(run: Run, masked_shop: Path) -> None:
    nut = predict(run.model, image_of(masked_shop, "nut"), "nut").anomaly_map[0, 0]
    assert (nut[:, :32] == 0).all()
    assert (nut[:, 32:] > 0).any()
    assert (predict(run.model, image_of(masked_shop, "nut"), "pin").anomaly_map[..., :32] > 0).any()


def test_thresholds_figures_and_pictures_are_of_the_rest(run: Run) -> None:
    rows = {row["category"]: row for row in json.loads((run.results / "per_category.json").read_text())}
    assert (rows["nut"]["n_normal"], rows["nut"]["n_anomalous"]) == (4, 0), "all defects of nuts are ignored"
    assert (rows["pin"]["n_normal"], rows["pin"]["n_anomalous"]) == (2, 2)
    assert "Hatched regions in images of nut are ignored" in (run.results / "report.html").read_text()
    picture = np.asarray(Image.open(next((run.results / "images").rglob("nut/**/good/000*.png"))).convert("L"))
    plain = np.asarray(Image.open(next((run.results / "images").rglob("pin/**/good/000*.png"))).convert("L"))
    assert (picture >= 250).mean() > (plain >= 250).mean() + 0.02, "light stripes"


def test_a_checkpoint_ignores_as_the_model_does(run: Run, masked_shop: Path) -> None:
    loaded = Grad.load_from_checkpoint(run.checkpoint).eval()
    for product in ("nut", "pin"):
        expected, again = (predict(model, image_of(masked_shop, product), product) for model in (run.model, loaded))
        assert torch.equal(again.anomaly_map, expected.anomaly_map)
        assert torch.equal(again.pred_score, expected.pred_score)


class Exports(NamedTuple):
    onnx: Path
    quantised: Path
    torch: Path


@pytest.fixture(scope="module")
def exports(run: Run, masked_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """The model in three kinds of file; it takes what it was not trained on for the product that it is most like."""
    folder = tmp_path_factory.mktemp("exports")
    model = Grad.load_from_checkpoint(run.checkpoint).eval()
    model.post_processor.recogniser.radius *= 100
    onnx, quantised = model.to_onnx(folder), folder / "model.xml"
    data = MultiCategory(root=masked_shop, train_batch_size=4, eval_batch_size=4, num_workers=0)
    ov.save_model(quantize(ov.convert_model(onnx), data), quantised)
    seal(quantised)
    return Exports(onnx, quantised, model.to_torch(folder))


@pytest.mark.parametrize(("kind", "tolerance"), [("onnx", 2e-2), ("quantised", 0.3), ("torch", 1e-4)])
def test_exports_ignore_as_the_model_does(
    run: Run, masked_shop: Path, exports: Exports, kind: str, tolerance: float, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """In anomalib's inferencers, which recognise the product, and when it is named; to what a grey level makes."""
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.chdir(tmp_path)
    file: Path = getattr(exports, kind)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    theirs: Any = TorchInferencer(file) if kind == "torch" else OpenVINOInferencer(file, "CPU", exact)
    told = None if kind == "torch" else CategoryOpenVINOInferencer(file, "CPU", exact)
    for product in ("nut", "pin"):
        path = image_of(masked_shop, product)
        expected = predict(run.model, path, product)
        for found in [theirs.predict(path)] + ([told.predict(path, category=product)] if told else []):
            anomaly_map = np.asarray(found.anomaly_map).squeeze()
            assert np.abs(anomaly_map - expected.anomaly_map.squeeze().numpy()).max() < tolerance
            assert float(np.ravel(found.pred_score)[0]) == pytest.approx(expected.pred_score.item(), abs=tolerance)
            assert (anomaly_map[:, :32] < 1e-6).all() == (product == "nut"), "0, but for how a runtime divides"


def test_a_model_whose_data_have_no_mask_is_as_ever(run: Run, shop: Path, tmp_path: Path) -> None:
    assert not [name for name in Grad(**TINY).state_dict() if "ignored" in name]
    assert [name for name in run.model.state_dict() if "ignored" in name] == [
        "model.ignored.kept",
        "model.ignored.shares",
    ]
    model = Grad.load_from_checkpoint(run.checkpoint)
    data = MultiCategory(root=shop, train_batch_size=4, num_workers=0)
    Engine(max_epochs=1, limit_train_batches=1, default_root_dir=tmp_path, accelerator="cpu", logger=False).fit(
        model, datamodule=data
    )
    assert model.model.ignored is None, "a training takes the masks of its data and no others"


def test_a_model_of_one_product_ignores_as_well(masked_shop: Path, tmp_path: Path) -> None:
    model = Grad(**TINY)
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/spot"}
    data = Folder(name="nut", root=masked_shop / "nut", **folders, eval_batch_size=4, num_workers=0)
    Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False).validate(model, datamodule=data)
    assert (model.eval()(pixels(image_of(masked_shop, "nut"))).anomaly_map[..., :32] == 0).all()


class Brightness(LightningModule):
    """Stands for any model that knows nothing of masks."""

    def test_step(self, batch: CategoryImageBatch, batch_idx: int) -> CategoryImageBatch:
        anomaly_map = batch.image.mean(1, keepdim=True)
        return batch.update(anomaly_map=anomaly_map, pred_score=anomaly_map.flatten(1).amax(dim=1))


def test_figures_of_other_models_are_of_the_rest_too(masked_shop: Path, tmp_path: Path) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[PerCategoryEvaluator()], barebones=False
    )
    trainer.test(Brightness(), datamodule=MultiCategory(root=masked_shop, num_workers=0))
    rows = {row["category"]: row for row in json.loads((tmp_path / "per_category.json").read_text())}
    assert {name: rows[name]["n_anomalous"] for name in ("nut", "pin")} == {"nut": 0, "pin": 2}
