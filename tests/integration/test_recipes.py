# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes beyond the paper go the whole way: train, test, checkpoint, export, the same in process and exported.

So do the names of products. On generated ones `plus` does what it is chosen for.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from PIL import Image, ImageDraw

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.deploy import CategoryOpenVINOInferencer

pytestmark = pytest.mark.slow

SMALLER: dict[str, dict[str, Any]] = {
    "CNN": {"backbone": "mobilenetv2_050", "image_size": (64, 64), "layers": ["blocks.2"]},
    "ViT": {"backbone": "vit_small_patch14_dinov2", "image_size": (112, 84), "layers": ["blocks.1", "blocks.2"]},
}
"""What stands in for a large network and many pixels: random weights of the same family, few blocks of it."""
NAMES = {"nut": 'nut, "M3" [50%]*', "pin": "pin's {0}; größe"}
"""What people call products."""


@pytest.mark.parametrize("family", SMALLER)
def test_plus_trains_and_exports(family: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Grad("plus", **SMALLER[family], pre_trained=False, method={"num_blocks": 1}, training={"warmup_steps": 1})
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


def turned(random: np.random.Generator, *, worn: bool) -> tuple[Image.Image, Image.Image]:
    """A threaded bar at any angle on an empty background, and the mask of where its thread is worn off."""
    side, length, width, background = 160, 67, 14, (124, 116, 104)
    picture, mask = Image.new("RGB", (2 * side, 2 * side), background), Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((side - length, side - width, side + length, side + width), fill=(200, 196, 190))
    draw.rectangle((side - length - 10, side - 2 * width, side - length + 10, side + 2 * width), fill=(180, 175, 170))
    for x in range(side - length + 20, side + length, 8):
        draw.line((x, side - width, x + 4, side + width), fill=(70, 66, 60), width=3)
    if worn:
        x = int(random.integers(side - length + 30, side + length - 30))
        place = (x - 16, side - width - 4, x + 16, side + width + 4)
        draw.rectangle(place, fill=(215, 210, 205))
        ImageDraw.Draw(mask).rectangle(place, fill=255)
    angle, (left, top) = random.uniform(0, 360), (int(value) for value in side // 2 + random.integers(-12, 13, 2))
    box = (left, top, left + side, top + side)
    bar = picture.rotate(angle, Image.Resampling.BILINEAR, fillcolor=background).crop(box)
    pixels = np.asarray(bar) + random.normal(0, 2, (side, side, 1)) + random.uniform(-6, 6)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask.rotate(angle).crop(box)


def test_plus_finds_defects_of_an_object_at_any_angle(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for place, count in (("train/good", 48), ("test/good", 12), ("test/worn", 12)):
        (tmp_path / "screw" / place).mkdir(parents=True)
        (tmp_path / "screw/ground_truth/worn").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture, mask = turned(random, worn=place == "test/worn")
            picture.save(tmp_path / "screw" / place / f"{number}.png")
            if place == "test/worn":
                mask.save(tmp_path / f"screw/ground_truth/worn/{number}.png")
    torch.manual_seed(0)
    length = {"steps": 60, "precision": "trainer"}
    model = Grad("plus", backbone="grad_tiny", image_size=(160, 160), training=length, visualizer=False)
    data = MultiCategory(root=tmp_path, categories="screw", train_batch_size=8, eval_batch_size=8, num_workers=0)
    engine = Engine(accelerator="cpu", devices=1, default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    figures = engine.test(model, datamodule=data)[0]
    assert figures["screw/image_AUROC"] > 0.9  # 0.99; by chance 0.5
    assert figures["screw/pixel_AUROC"] > 0.95  # 0.99
