# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A product more: a new model starts from an old one, with the images of its products or without."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from PIL import Image
from torch.utils.data import Subset

from anomalib_grad.adjustment import read_thresholds
from anomalib_grad.adjustment.model_files import score_by
from anomalib_grad.data import MultiCategory
from anomalib_grad.files.checkpoint_reading import CheckpointFileError
from anomalib_grad.files.configuration import CheckpointConfigurationError
from anomalib_grad.lightning_model import Grad
from anomalib_grad.thresholds.model_thresholds import ModelThresholds
from anomalib_grad.thresholds.rules import fit as fit_thresholds
from anomalib_grad.thresholds.threshold_record import RESCORED
from anomalib_grad.training.extension import OLD_HEAD_KEY
from anomalib_grad.training.feature_sample import SAMPLE_KEY, VALIDATION_KEY
from helpers import tiny, write_category

SCALED = tiny(scaled=True, whitening=True, precision="auto")
OLD = ["nut", "pin"]
ALL = ["bolt", "nut", "pin"]


class OwnData(MultiCategory):
    """A datamodule of somebody else, whose data set names the product of each image that it gives and no more."""

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)
        images = self.train_data
        self.train_data = Subset(images, range(len(images)))
        self.external_collate_fn = images.collate_fn


def fit(
    model: Grad,
    root: Path,
    folder: Path,
    epochs: int = 1,
    ckpt_path: Path | None = None,
    kind: type[MultiCategory] = MultiCategory,
) -> Grad:
    seed_everything(0)
    data = kind(root=root, train_batch_size=4, eval_batch_size=4, num_workers=0)
    every_epoch = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, enable_version_counter=False)
    engine = Engine(
        max_epochs=epochs, callbacks=[every_epoch], default_root_dir=folder, accelerator="cpu", devices=1, logger=False
    )
    engine.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model.eval()


@pytest.fixture(scope="module")
def old(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a model of nuts and pins."""
    folder = tmp_path_factory.mktemp("old")
    fit(Grad(**SCALED), shop, folder)
    return folder / "epoch=0.ckpt"


@pytest.fixture(scope="module")
def bolts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new product alone."""
    root = tmp_path_factory.mktemp("bolts")
    write_category(root / "bolt", train=6)
    return root


@pytest.fixture(scope="module")
def extended(old: Path, bolts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Grad, Path]:
    """The old model with bolts, which saw no image of a nut or a pin, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("extended")
    return fit(Grad(extends=old), bolts, folder, epochs=2), folder


def recognised(model: Grad, folder: Path) -> list[str]:
    names = []
    for path in sorted(folder.glob("train/good/*.png")):
        pixels = torch.from_numpy(np.asarray(Image.open(path))).permute(2, 0, 1)[None] / 255
        names += model(pixels).explanation
    return names


def test_old_products_live_on_without_their_images(
    extended: tuple[Grad, Path], old: Path, shop: Path, bolts: Path
) -> None:
    model, before = extended[0], Grad.load_from_checkpoint(old)
    assert model.categories == ALL
    assert torch.equal(model.model.whitening.matrix, before.model.whitening.matrix)
    assert model.post_processor.category_threshold("bolt") not in {0.0, before.post_processor.image_threshold.item()}
    assert model.post_processor.records.keys() == {*ALL, "unknown"}, "what thresholds come from stays as well"
    assert len(model.model.normal_scale.units) == 4
    for root, name in ((shop, "nut"), (shop, "pin"), (bolts, "bolt")):
        assert recognised(model, root / name).count(name) >= 5


def test_thresholds_of_old_products_rest_on_what_the_new_network_makes_of_their_validation_images(
    extended: tuple[Grad, Path], old: Path, shop: Path
) -> None:
    """As far as half precision goes, in which their features are carried."""
    model, former = extended[0], read_thresholds(old)
    thresholds = ModelThresholds.of(model.post_processor)
    for name in OLD:
        record = thresholds.records[name]
        assert (record.source, record.seen) == (RESCORED, (2, 2))
        found = {image.name: score_by(model, shop / name / "test" / image.name, name).score for image in record.images}
        assert {image.name: image.score for image in record.images} == pytest.approx(found, rel=2e-3)
        errors = [
            sum(abs(image.score - found[image.name]) for image in each.records[name].images)
            for each in (thresholds, former)
        ]
        assert errors[0] < 0.1 * errors[1], "the old scores say nothing any more"
        counts = [
            sum(image.score >= each.threshold(name) for image in each.records[name].images)
            for each in (thresholds, former)
        ]
        assert counts[0] == counts[1], "as many of them exceed it as before"
    images = thresholds.images("unknown")
    assert len(images) == 12
    assert thresholds.threshold("unknown") == pytest.approx(fit_thresholds(images, None).image)
    assert model.post_processor.image_threshold.item() == pytest.approx(thresholds.threshold("unknown"))


def test_the_new_checkpoint_can_be_extended_again(extended: tuple[Grad, Path]) -> None:
    content = torch.load(extended[1] / "epoch=1.ckpt", weights_only=False)
    assert {name: len(part) for name, part in content[SAMPLE_KEY].items()} == dict.fromkeys(ALL, 6)
    assert {name: len(part["features"]) for name, part in content[VALIDATION_KEY].items()} == dict.fromkeys(ALL, 4)


def test_a_killed_extension_goes_on_without_the_old_checkpoint(
    extended: tuple[Grad, Path], bolts: Path, tmp_path: Path
) -> None:
    model = fit(Grad(), bolts, tmp_path, epochs=2, ckpt_path=extended[1] / "epoch=0.ckpt")
    assert model.categories == ALL
    expected = extended[0].state_dict()
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, expected[name])] == []
    for name in OLD:
        assert model.post_processor.records[name].images == extended[0].post_processor.records[name].images


def test_a_killed_extension_of_before_goes_on_from_the_head_that_it_came_to(
    extended: tuple[Grad, Path], bolts: Path, tmp_path: Path
) -> None:
    content = torch.load(extended[1] / "epoch=0.ckpt", weights_only=False)
    old = content.pop(OLD_HEAD_KEY)
    torch.save(content, tmp_path / "before.ckpt")
    model = fit(Grad(), bolts, tmp_path, epochs=2, ckpt_path=tmp_path / "before.ckpt")
    assert model.categories == ALL
    came_to = {name: content["state_dict"][f"model.head.{name}"] for name in old}
    held_to = torch.load(tmp_path / "epoch=1.ckpt", weights_only=False)[OLD_HEAD_KEY]
    assert all(torch.equal(held_to[name], value) for name, value in came_to.items())
    old.popitem()
    torch.save(content | {OLD_HEAD_KEY: old}, tmp_path / "changed.ckpt")
    with pytest.raises(CheckpointConfigurationError, match="is missing: the file was changed after training"):
        fit(Grad(), bolts, tmp_path, epochs=2, ckpt_path=tmp_path / "changed.ckpt")


def test_thresholds_stay_where_an_older_checkpoint_carries_no_validation_images(
    old: Path, bolts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(old, weights_only=False)
    del content[VALIDATION_KEY]
    torch.save(content, tmp_path / "older.ckpt")
    model, before = fit(Grad(extends=tmp_path / "older.ckpt"), bolts, tmp_path), Grad.load_from_checkpoint(old)
    for name in OLD:
        assert model.post_processor.category_threshold(name) == before.post_processor.category_threshold(name)
    assert "The thresholds of nut, pin are unchanged" in caplog.text


@pytest.fixture(scope="module")
def everything(shop: Path, bolts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of old and new products."""
    root = tmp_path_factory.mktemp("everything")
    shutil.copytree(shop, root, dirs_exist_ok=True)
    shutil.copytree(bolts, root, dirs_exist_ok=True)
    return root


def test_with_images_of_all_products_new_ones_are_learnt_and_all_thresholds_fitted_again(
    extended: tuple[Grad, Path], old: Path, everything: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, before = fit(Grad(extends=old), everything, tmp_path, epochs=2), Grad.load_from_checkpoint(old)
    assert "Training uses only images of bolt. It preserves nut, pin by" in capsys.readouterr().out
    assert model.categories == ALL
    without_images = extended[0].model.head.state_dict()
    assert all(torch.equal(value, without_images[name]) for name, value in model.model.head.state_dict().items())
    for name in OLD:
        assert model.post_processor.category_threshold(name) != before.post_processor.category_threshold(name)
        assert model.post_processor.records[name].source == "validation"
        assert recognised(model, everything / name).count(name) >= 5
    data = model.trainer.datamodule
    assert data.train_data.categories == ALL, "the user's data are whole again"
    content = torch.load(tmp_path / "epoch=1.ckpt", weights_only=False)
    assert content[SAMPLE_KEY].keys() == content[VALIDATION_KEY].keys() == set(ALL)
    killed = fit(Grad(), everything, tmp_path / "again", epochs=2, ckpt_path=tmp_path / "epoch=0.ckpt")
    expected = model.state_dict()
    assert [name for name, value in killed.state_dict().items() if not torch.equal(value, expected[name])] == []


def test_old_products_are_learnt_anew_where_they_are_to_be_or_there_is_nothing_else(
    old: Path, shop: Path, everything: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(Grad(extends=old, replaces=["pin"]), everything, tmp_path)
    assert "Training uses only images of bolt, pin. It preserves nut by" in capsys.readouterr().out
    fit(Grad(extends=old), shop, tmp_path)
    assert "uses only" not in capsys.readouterr().out
    model = fit(Grad(extends=old), everything, tmp_path, kind=OwnData)
    assert "uses only" not in capsys.readouterr().out
    assert model.categories == ALL


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"image_size": (96, 96)},
            CheckpointConfigurationError,
            "cannot start from .*image_size is .64, 64. in the checkpoint",
        ),
        ({"extends": "none.ckpt"}, FileNotFoundError, "there is no checkpoint none.ckpt"),
        ({"extends": "README"}, CheckpointFileError, "cannot read checkpoint README"),
    ],
)
def test_what_cannot_be_extended_is_refused(
    old: Path, bolts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any], kind: type[Exception], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("README").write_text("no checkpoint")
    with pytest.raises(kind, match=message):
        fit(Grad(**{"extends": old, **arguments}), bolts, tmp_path)


def test_loaders_that_name_no_product_are_refused_before_anything_is_learnt(
    old: Path, bolts: Path, tmp_path: Path
) -> None:
    data = MultiCategory(root=bolts, num_workers=0)
    data.setup()
    engine = Engine(max_epochs=1, default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    with pytest.raises(ValueError, match=r"the data do not name their products.*such as MultiCategory"):
        engine.fit(Grad(extends=old), train_dataloaders=data.train_dataloader())


def test_a_model_that_was_extended_does_not_start_again_without_what_it_has_learnt(
    extended: tuple[Grad, Path], tmp_path: Path
) -> None:
    write_category(tmp_path / "cups/cup", train=2)
    before = {name: value.clone() for name, value in extended[0].state_dict().items()}
    with pytest.raises(
        ValueError, match=r"has already learnt bolt, .* from .*epoch=0.ckpt would discard that: give a checkpoint"
    ):
        fit(extended[0], tmp_path / "cups", tmp_path)
    after = extended[0].state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_an_exported_model_holds_no_features(extended: tuple[Grad, Path], tmp_path: Path) -> None:
    path = extended[0].to_torch(tmp_path)
    assert len(extended[0]._sample.rows) == 3
    assert torch.load(path, weights_only=False)["model"]._sample.rows == {}
