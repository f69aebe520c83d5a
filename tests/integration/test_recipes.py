# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes beyond the paper go the whole way: train, test, checkpoint, export, the same in process and exported.

So do the names of products.
"""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.engine import Engine

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.deploy import CategoryOpenVINOInferencer

SMALLER: dict[str, dict[str, Any]] = {
    "CNN": {"backbone": "mobilenetv2_050", "image_size": (96, 96)},
    "ViT": {"backbone": "vit_small_patch14_dinov2", "image_size": (112, 84), "layers": "both"},
}
"""What stands in for a large network and many pixels: random weights of the same family."""
NAMES = {"nut": 'nut, "M3" [50%]*', "pin": "pin's {0}; größe"}
"""What people call products."""


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALLER)
def test_plus_trains_and_exports(family: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Grad("plus", **SMALLER[family], pre_trained=False, training={"warmup_steps": 1})
    frozen = {name: value.clone() for name, value in model.model.backbone.state_dict().items()}
    root = tmp_path / "products"
    for name, odd in NAMES.items():
        shutil.copytree(shop / name, root / odd)
    data = MultiCategory(root=root, train_batch_size=4, eval_batch_size=4, num_workers=0)
    engine = Engine(accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    results = engine.test(model, datamodule=data)[0]
    odd_names = list(NAMES.values())
    for name in (*odd_names, "mean"):
        assert 0 <= results[f"{name}/image_AUROC"] <= 1
    for name, value in model.model.backbone.state_dict().items():
        assert torch.equal(value, frozen[name]), name
    (table,) = tmp_path.rglob("per_category.csv")
    assert list(pd.read_csv(table)["category"])[:2] == odd_names

    checkpoint = engine.trainer.checkpoint_callback.best_model_path
    loaded = Grad.load_from_checkpoint(checkpoint).eval()
    assert loaded.model.configuration == model.model.configuration
    inferencer = CategoryOpenVINOInferencer(loaded.to_openvino(tmp_path), device="CPU")
    assert data.categories == loaded.post_processor.categories == inferencer.categories == odd_names
    for image in root.glob("*/test/spot/000.png"):
        pixels = read_image(image, as_tensor=True)[None]  # files are resized in 8 bits, which random weights feel
        exported, own = inferencer.predict(pixels), loaded(pixels)
        assert exported.pred_score.item() == pytest.approx(own.pred_score.item(), abs=1e-3)
        torch.testing.assert_close(
            torch.as_tensor(exported.anomaly_map).squeeze(), own.anomaly_map.squeeze(), atol=1e-3, rtol=0
        )
        assert exported.explanation == own.explanation
        assert inferencer.predict(pixels, category=image.parents[2].name).explanation == [image.parents[2].name]
