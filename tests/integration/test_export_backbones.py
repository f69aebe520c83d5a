# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Every family of backbones goes the whole way: train, test, checkpoint, export."""

from pathlib import Path

import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine

from anomalib_grad.data import MultiCategory
from anomalib_grad.lightning_model import Grad
from helpers import TINY

pytestmark = pytest.mark.slow

FAMILIES = {"resnet18": None, "tf_efficientnet_b0": "coarsest_stages", "convnext_atto": None}
"""Layers; ``test_recipes.py`` does the same with MobileNet and a vision transformer."""


@pytest.mark.parametrize(("backbone", "layers"), FAMILIES.items())
def test_a_backbone_family_trains_tests_and_exports(
    backbone: str, layers: str | None, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Grad(**TINY | {"backbone": backbone, "layers": layers, "image_size": (64, 64)})
    frozen = {name: value.clone() for name, value in model.model.backbone.state_dict().items()}
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0, seed=0)
    engine = Engine(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
    )
    engine.fit(model, datamodule=data)
    results = engine.test(model, datamodule=data)[0]
    assert 0 <= results["mean/image_AUROC"] <= 1
    for name, value in model.model.backbone.state_dict().items():
        assert torch.equal(value, frozen[name]), name

    path = engine.export(model, "openvino", export_root=tmp_path)
    file = next((shop / "nut/test/spot").glob("*.png"))
    exported = OpenVINOInferencer(path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"}).predict(file)
    model.eval()
    with torch.no_grad():
        predicted = model(read_image(file, as_tensor=True)[None])
    assert predicted.anomaly_map.std() > 0
    assert abs(exported.pred_score.item() - predicted.pred_score.item()) < 1e-3
    assert abs(torch.from_numpy(exported.anomaly_map) - predicted.anomaly_map).max() < 1e-3
