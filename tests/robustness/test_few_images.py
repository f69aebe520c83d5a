# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What the recipe plus learns from training images beside weights bears products of few, constant or equal images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from PIL import Image

from anomalib_grad import Grad, MultiCategory
from helpers import tiny, write_category

pytestmark = pytest.mark.slow

LIKE_PLUS = {"whitening": True, "mse_threshold": "auto", "scaled": True, "score_share": 0.01, "score_window": None}
FEW = ("copies", "five", "flat")


@pytest.fixture(scope="module")
def odd_products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    write_category(root / "many", train=12)
    write_category(root / "five", train=5)
    flat = write_category(root / "flat", train=1)
    Image.fromarray(np.full((72, 72, 3), 90, np.uint8)).save(flat / "train/good/000.png")
    copies = write_category(root / "copies", train=6)
    for image in (copies / "train/good").iterdir():
        image.write_bytes((copies / "train/good/000.png").read_bytes())
    return root


def test_scores_are_finite_and_who_has_few_images_is_told(odd_products, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Grad(**tiny(**LIKE_PLUS, copies=1))  # of which nobody has more images
    data = MultiCategory(root=odd_products, train_batch_size=6, eval_batch_size=4, num_workers=0)
    engine = Engine(accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    told = [message for message in caplog.messages if "training images, too few to estimate" in message]
    assert sorted(name for name in data.categories for message in told if repr(name) in message) == list(FEW)
    assert any("'five' has only 5 training images" in message for message in told)
    assert len(model.model.normal_scale.units) == 5
    model.eval()
    for batch in data.test_dataloader():
        prediction = model(batch.image)
        assert prediction.pred_score.isfinite().all()
        assert prediction.anomaly_map.isfinite().all()
        raw = model.model(model.pre_processor(batch.image))
        assert (raw.pred_score < 1000).all()  # not blown up by what hardly varies in training


def test_a_product_alone_is_measured_by_itself(odd_products, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Grad(**tiny(**LIKE_PLUS))
    data = MultiCategory(root=odd_products, categories=["many"], train_batch_size=6, eval_batch_size=4, num_workers=0)
    engine = Engine(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, logger=False, limit_val_batches=0)
    engine.fit(model, datamodule=data)
    assert model.model.whitening.images == 12
    own, every = model.model.normal_scale.units
    torch.testing.assert_close(own, every)


def test_a_training_on_more_products_follows_one_on_fewer(odd_products, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Grad(**tiny(**LIKE_PLUS))
    for categories in (["many"], ["copies", "five", "flat", "many"]):
        data = MultiCategory(
            root=odd_products, categories=categories, train_batch_size=6, eval_batch_size=16, num_workers=0
        )
        Engine(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, logger=False).fit(model, datamodule=data)
        assert len(model.model.normal_scale.units) == len(categories) + 1
