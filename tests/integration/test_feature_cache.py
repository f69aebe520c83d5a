# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Training from cached features through anomalib's engine: the same losses, images read once, never out of date."""

import os
import shutil
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, MVTecAD
from anomalib.engine import Engine
from lightning import Callback, seed_everything
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.data.dataset import MultiCategoryDataset
from helpers import tiny, write_category

pytestmark = pytest.mark.slow

EPOCHS = 3
IMAGES = 12  # of both categories of the shop


class Losses(Callback):
    """Remembers the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(outputs["loss"].item())


def datamodule(root: Path, **arguments: Any) -> MultiCategory:
    return MultiCategory(root=root, train_batch_size=5, eval_batch_size=5, num_workers=0, **arguments)


def losses(data: AnomalibDataModule, folder: Path, precision: str = "32-true", **arguments: Any) -> torch.Tensor:
    """Train; gives the loss of every step."""
    seed_everything(1)
    remembered = Losses()
    engine = Engine(
        max_epochs=EPOCHS, check_val_every_n_epoch=EPOCHS, default_root_dir=folder, callbacks=[remembered],
        precision=precision,
    )  # fmt: skip
    engine.fit(Grad(**tiny(**arguments), evaluator=False, visualizer=False), datamodule=data)
    return torch.tensor(remembered.values)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the training images that are read from their files."""
    indices: list[int] = []

    def count(kind: type[AnomalibDataset]) -> None:
        read = kind.__getitem__

        @wraps(read)
        def counted(self: AnomalibDataset, index: int) -> object:
            if self.samples.iloc[index]["split"] == "train":
                indices.append(index)
            return read(self, index)

        monkeypatch.setattr(kind, "__getitem__", counted)

    count(AnomalibDataset)
    count(MultiCategoryDataset)
    return indices


@pytest.fixture(scope="module")
def uncached(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return losses(datamodule(shop), tmp_path_factory.mktemp("uncached"), feature_cache=False)


@pytest.mark.parametrize("place", ["auto", "memory", "disk"])
def test_losses_are_those_of_images_and_every_image_is_read_once(
    place: str, shop: Path, tmp_path: Path, uncached: torch.Tensor, reads: list[int]
) -> None:
    cached = losses(datamodule(shop), tmp_path, feature_cache=place, cache={"folder": tmp_path / "cache"})
    assert len(cached) == EPOCHS * 3
    torch.testing.assert_close(cached, uncached, rtol=1e-6, atol=0)
    assert len(reads) == IMAGES
    assert len(list(tmp_path.glob("cache/*.npy"))) == (place == "disk")


def test_a_second_training_takes_the_cache_on_disk(shop: Path, tmp_path: Path, reads: list[int]) -> None:
    cache = {"feature_cache": "disk", "cache": {"folder": tmp_path / "cache"}}
    first = losses(datamodule(shop), tmp_path, **cache)
    reads.clear()
    assert torch.equal(losses(datamodule(shop), tmp_path, **cache), first)
    assert reads == []


def test_features_of_a_training_that_was_stopped_among_them_are_computed_again(
    shop: Path, tmp_path: Path, reads: list[int]
) -> None:
    def stop(*_: object) -> None:
        if len(reads) > IMAGES / 2:
            hook.remove()
            raise RuntimeError("stopped")

    model = Grad(**tiny(max_epochs=2), evaluator=False, visualizer=False, feature_cache="memory")
    hook = model.model.backbone.network.register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="stopped"):
        Engine(default_root_dir=tmp_path).fit(model, datamodule=datamodule(shop))
    reads.clear()
    Engine(default_root_dir=tmp_path).fit(model, datamodule=datamodule(shop))
    assert len(reads) == IMAGES


def test_half_precision_takes_half_the_room_and_stays_close(shop: Path, tmp_path: Path, uncached: torch.Tensor) -> None:
    cache = {"feature_cache": "disk", "cache": {"folder": tmp_path}}
    half = losses(datamodule(shop), tmp_path, **cache, dtype="float16")
    losses(datamodule(shop), tmp_path, **cache)
    torch.testing.assert_close(half, uncached, rtol=3e-2, atol=0)
    small, large = sorted(path.stat().st_size for path in tmp_path.glob("*.npy"))
    assert small == pytest.approx(large / 2, rel=0.01)


@pytest.mark.parametrize(
    "other",
    [{"image_size": (96, 96)}, {"backbone": "mobilenetv2_035"}, {"layers": ["blocks.1", "blocks.2"]}],
    ids=["size", "backbone", "layers"],
)
def test_another_size_or_backbone_starts_anew(shop: Path, tmp_path: Path, reads: list[int], other: dict) -> None:
    cache = {"feature_cache": "disk", "cache": {"folder": tmp_path / "cache"}}
    losses(datamodule(shop), tmp_path, **cache)
    reads.clear()
    losses(datamodule(shop), tmp_path, **cache, **other)
    assert len(reads) == IMAGES


def test_a_changed_or_added_image_starts_anew(tmp_path: Path, reads: list[int]) -> None:
    cache = {"feature_cache": "disk", "cache": {"folder": tmp_path / "cache"}}
    image = write_category(tmp_path / "products" / "nut", train=3) / "train/good/000.png"

    def reads_of_a_training() -> int:
        reads.clear()
        losses(datamodule(tmp_path / "products"), tmp_path, **cache)
        return len(reads)

    assert reads_of_a_training() == 3
    assert reads_of_a_training() == 0
    os.utime(image, (1e9, 1e9))
    assert reads_of_a_training() == 3
    shutil.copy(image, image.with_name("new.png"))
    assert reads_of_a_training() == 4


def test_other_weights_of_the_backbone_start_anew(shop: Path, tmp_path: Path, reads: list[int]) -> None:
    cache = {"feature_cache": "disk", "cache": {"folder": tmp_path / "cache"}, "backbone": "mobilenetv2_050"}
    losses(datamodule(shop), tmp_path, **cache)
    reads.clear()
    seed_everything(1)
    model = Grad(**tiny(**cache), evaluator=False, visualizer=False)
    with torch.no_grad():
        next(model.model.backbone.parameters()).mul_(1.01)
    Engine(max_epochs=2, default_root_dir=tmp_path).fit(model, datamodule=datamodule(shop))
    assert len(reads) == IMAGES


def test_augmented_images_are_read_in_every_epoch(
    shop: Path, tmp_path: Path, reads: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    data = datamodule(shop, train_augmentations=RandomHorizontalFlip())
    losses(data, tmp_path, feature_cache="memory")
    assert len(reads) >= EPOCHS * IMAGES  # and once for the threshold k
    assert "The feature cache is off: training images are augmented (RandomHorizontalFlip)." in caplog.text


def test_a_single_pass_caches_nothing(shop: Path, tmp_path: Path) -> None:
    model = Grad(**tiny(), evaluator=False, visualizer=False)
    data = datamodule(shop)
    Engine(max_epochs=1, default_root_dir=tmp_path).fit(model, datamodule=data)
    assert model.feature_caching.rows is None


def test_one_datamodule_workers_and_mixed_precision(shop: Path, tmp_path: Path) -> None:
    def trained(**cache: Any) -> torch.Tensor:
        data = MVTecAD(shop, "nut", train_batch_size=2, eval_batch_size=2, num_workers=1)
        return losses(data, tmp_path, precision="bf16-mixed", **cache)

    cached, images = trained(feature_cache="memory"), trained(feature_cache=False)
    torch.testing.assert_close(cached[0], images[0], rtol=5e-3, atol=0)
    torch.testing.assert_close(cached, images, rtol=1e-1, atol=0)  # each step adds bfloat16's rounding to the next


def test_balanced_draws_are_the_same(shop: Path, tmp_path: Path) -> None:
    runs = [losses(datamodule(shop, balanced=True), tmp_path, feature_cache=place) for place in ("memory", False)]
    torch.testing.assert_close(*runs, rtol=1e-6, atol=0)


def test_the_datamodule_gives_images_again_after_training(shop: Path, tmp_path: Path) -> None:
    data = datamodule(shop)
    losses(data, tmp_path)
    assert next(iter(data.train_dataloader())).image.shape == (5, 3, 64, 64)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    broken = write_category(tmp_path / "products" / "nut") / "train/good/001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    data = MVTecAD(tmp_path / "products", "nut", num_workers=0)
    with pytest.raises(Exception, match=r"001\.png"):
        losses(data, tmp_path)
    assert "train_dataloader" not in vars(data)
