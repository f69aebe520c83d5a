# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Grad through anomalib's engine: fit, resume, checkpoints, categories."""

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Padim
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from safetensors.torch import load_file, save_file

from anomalib_grad.categories.recogniser import pool
from anomalib_grad.data import MultiCategory
from anomalib_grad.files.configuration import CheckpointConfigurationError
from anomalib_grad.lightning_model import Grad
from helpers import TINY, tiny

pytestmark = pytest.mark.slow

EPOCHS = 3


def engine(folder: Path, *callbacks: Callback, **arguments: Any) -> Engine:
    return Engine(callbacks=list(callbacks), default_root_dir=folder, accelerator="cpu", devices=1, **arguments)


def products(shop: Path, *, balanced: bool = False) -> MultiCategory:
    return MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0, balanced=balanced, seed=0)


class Rates(Callback):
    """Notes epoch, learning rates and ``k`` of each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, float, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        networks, grids = trainer.optimizers[0].param_groups
        k = pl_module.model.head.mse_threshold.item()
        self.seen.append((trainer.current_epoch, networks["lr"], grids["lr"], k))


class Run(NamedTuple):
    model: Grad
    rates: Rates
    checkpoints: list[Path]
    warnings: list[str]


def fit(
    shop: Path,
    folder: Path,
    ckpt_path: Path | None = None,
    seed: int = 0,
    balanced: bool = False,
    **options: Any,
) -> Run:
    """Fit without any limit from the trainer, with a drop of the rates after every second epoch."""
    seed_everything(seed)
    model = Grad(**tiny(**options, lr_step=1, max_epochs=EPOCHS))
    rates = Rates()
    every_epoch = ModelCheckpoint(dirpath=folder / "weights", filename="{epoch}", save_top_k=-1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine(folder, rates, every_epoch).fit(model, datamodule=products(shop, balanced=balanced), ckpt_path=ckpt_path)
    return Run(model, rates, sorted((folder / "weights").glob("*.ckpt")), [str(w.message) for w in caught])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights for the backbone."""
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    torch.manual_seed(3)
    network = timm.create_model(TINY["backbone"], pretrained=False).train()
    network(torch.rand(4, 3, 64, 64))  # statistics unlike those of a new network
    save_file(network.state_dict(), path)
    save_file(network.state_dict(), path.with_stem("kept"))
    return path


@pytest.fixture(scope="module")
def run(shop: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted fit; then its file of weights is gone."""
    done = fit(shop, tmp_path_factory.mktemp("run"), pre_trained=str(weights))
    weights.unlink()
    return done


def assert_same_weights(one: LightningModule, other: LightningModule) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    differing = [key for key in ours if not torch.equal(ours[key].nan_to_num(), theirs[key].nan_to_num())]
    assert differing == []


def test_a_fit_without_limit_ends_after_the_models_epochs_and_nobody_speaks_of_1000(run: Run) -> None:
    assert [epoch for epoch, *_ in run.rates.seen] == list(range(EPOCHS))
    assert [message for message in run.warnings if "max_epochs" in message or "1000" in message] == []


def test_rates_drop_as_scheduled(run: Run) -> None:
    assert [networks for _, networks, _, _ in run.rates.seen] == pytest.approx([1e-3, 1e-3, 1e-4])
    assert [grids for _, _, grids, _ in run.rates.seen] == pytest.approx([0.1, 0.1, 0.01])


def test_k_is_estimated_once_and_kept(run: Run) -> None:
    later = {rates[3] for rates in run.rates.seen}
    assert len(later) == 1
    assert later.pop() > 0
    stored = torch.load(run.checkpoints[0], weights_only=True)["state_dict"]["model.head.mse_threshold"]
    assert stored == run.model.model.head.mse_threshold


def test_the_backbone_is_bit_identical_after_a_fit(run: Run, weights: Path) -> None:
    after = run.model.model.backbone.state_dict()
    given = load_file(weights.with_stem("kept"))
    assert any(name.endswith("running_var") and tensor.std() > 0 for name, tensor in given.items())
    for name, tensor in after.items():
        assert torch.equal(tensor, given[name.removeprefix("network.")]), name
    assert not any(module.training for module in run.model.model.backbone.modules())
    assert not any(parameter.requires_grad for parameter in run.model.model.backbone.parameters())


def test_the_same_seed_gives_the_same_weights_and_estimating_k_draws_no_random_numbers(
    shop: Path, run: Run, weights: Path, tmp_path: Path
) -> None:
    file = str(weights.with_stem("kept"))
    again = fit(shop, tmp_path / "again", pre_trained=file)
    assert_same_weights(run.model, again.model)
    given = fit(shop, tmp_path / "given", pre_trained=file, mse_threshold=run.model.model.head.mse_threshold.item())
    assert_same_weights(run.model, given.model)
    other = fit(shop, tmp_path / "other", pre_trained=file, seed=1)
    assert not torch.equal(other.model.model.head.grid_parameters()[0], run.model.model.head.grid_parameters()[0])


def test_a_resumed_fit_is_the_uninterrupted_one(
    shop: Path, run: Run, weights: Path, tmp_path: Path, no_network: None
) -> None:
    resumed = fit(shop, tmp_path, run.checkpoints[0], seed=9, pre_trained=str(weights))
    assert resumed.rates.seen == run.rates.seen[1:]
    assert_same_weights(run.model, resumed.model)


def test_a_resumed_fit_on_balanced_draws_is_the_uninterrupted_one(shop: Path, tmp_path: Path) -> None:
    whole = fit(shop, tmp_path / "whole", balanced=True)
    for checkpoint in whole.checkpoints[:-1]:
        resumed = fit(shop, tmp_path / checkpoint.stem, checkpoint, seed=9, balanced=True)
        assert_same_weights(whole.model, resumed.model)


@pytest.mark.parametrize("weights_only", [None, True])
def test_loading_needs_neither_arguments_nor_network_nor_the_file_of_weights(
    run: Run, weights: Path, no_network: None, weights_only: bool | None
) -> None:
    assert not weights.exists()
    model = Grad.load_from_checkpoint(run.checkpoints[-1], weights_only=weights_only)
    assert_same_weights(model, run.model)
    images = torch.rand(2, 3, 72, 72)
    ours, theirs = run.model.eval()(images), model.eval()(images)
    assert torch.equal(ours.anomaly_map, theirs.anomaly_map)
    assert ours.explanation == theirs.explanation


def test_test_and_predict_take_everything_from_the_checkpoint(
    shop: Path, run: Run, tmp_path: Path, no_network: None
) -> None:
    tested = engine(tmp_path).test(Grad(), datamodule=products(shop), ckpt_path=run.checkpoints[-1])[0]
    expected = engine(tmp_path).test(run.model, datamodule=products(shop))[0]
    assert tested.keys() == expected.keys()
    assert list(tested.values()) == pytest.approx(list(expected.values()), nan_ok=True)

    batches = engine(tmp_path).predict(
        Grad(), data_path=shop / "nut/test/good", ckpt_path=run.checkpoints[-1], return_predictions=True
    )
    assert [batch.explanation for batch in batches] == [["nut"], ["nut"]]
    named = engine(tmp_path).predict(
        Grad(category="pin"), data_path=shop / "nut/test/good", ckpt_path=run.checkpoints[-1]
    )
    assert [batch.explanation for batch in named] == [["pin"], ["pin"]]
    assert not torch.equal(named[0].anomaly_map, batches[0].anomaly_map)  # normalised by another category


def test_the_thresholds_of_a_checkpoint_are_those_among_its_weights(shop: Path, run: Run, tmp_path: Path) -> None:
    """Lightning writes those of callbacks a second time, where nobody looks, and would prefer them."""
    content = torch.load(run.checkpoints[-1], weights_only=True)
    assert type(run.model.post_processor).__name__ not in content["callbacks"]
    changed = {name: torch.full_like(row, torch.inf) for name, row in run.model.post_processor.state_dict().items()}
    content["callbacks"][type(run.model.post_processor).__name__] = changed
    torch.save(content, tmp_path / "changed.ckpt")
    images = {"data_path": shop / "nut/test/spot", "return_predictions": True}
    for ours, theirs in zip(
        engine(tmp_path).predict(Grad(**TINY), ckpt_path=run.checkpoints[-1], **images),
        engine(tmp_path).predict(Grad(**TINY), ckpt_path=tmp_path / "changed.ckpt", **images),
        strict=True,
    ):
        assert torch.equal(ours.pred_score, theirs.pred_score)


@pytest.mark.parametrize(
    ("part", "value", "fault"),
    [
        ("loops", {}, "cannot resume from checkpoint .*: its training state is not complete .*fit_loop"),
        ("optimizer_states", [{}], "cannot resume from checkpoint .*: its training state is not complete"),
        ("lr_schedulers", [5], "cannot resume from checkpoint .*: its training state is not complete"),
        ("grad_random_state", torch.ones(3), "the checkpoint's 'grad_random_state' cannot be used"),
    ],
)
def test_states_of_no_training_are_refused_when_it_is_to_go_on(
    shop: Path, run: Run, tmp_path: Path, part: str, value: object, fault: str
) -> None:
    content = torch.load(run.checkpoints[0], weights_only=True)
    torch.save({**content, part: value}, tmp_path / "changed.ckpt")
    with pytest.raises(Exception, match=fault) as raised:
        engine(tmp_path).fit(
            Grad(**tiny(max_epochs=EPOCHS)), datamodule=products(shop), ckpt_path=tmp_path / "changed.ckpt"
        )
    assert "\n" not in str(raised.value)


def test_categories_are_recognised_from_the_first_checkpoint_on(shop: Path, run: Run) -> None:
    first, last = (Grad.load_from_checkpoint(path).eval() for path in (run.checkpoints[0], run.checkpoints[-1]))
    assert first.post_processor.categories == ["nut", "pin"]
    assert first.post_processor.recogniser.fitted
    assert torch.equal(first.post_processor.recogniser.means, last.post_processor.recogniser.means)
    data = products(shop)
    data.setup()
    for batch in data.test_dataloader():
        for name, recognised, anomalous in zip(
            batch.category, first(batch.image).explanation, batch.gt_label, strict=True
        ):
            assert recognised == name or (anomalous and recognised == "unknown")


def test_a_category_missing_from_training_is_waited_for_and_missed_in_the_end(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = products(shop)
    data.setup()
    data.train_data.samples = data.train_data.samples[data.train_data.samples.image_path.str.contains("nut")]
    model = Grad(**TINY)
    with caplog.at_level(logging.WARNING):
        engine(tmp_path, max_epochs=2).fit(
            model, train_dataloaders=data.train_dataloader(), val_dataloaders=data.val_dataloader()
        )
    assert model.post_processor.categories == ["nut", "pin"]
    assert not model.post_processor.recogniser.fitted
    assert "cannot recognise categories: training showed no image of pin" in caplog.text


def test_loaders_name_their_products_as_a_datamodule_does(shop: Path, tmp_path: Path) -> None:
    """Each product has a unit of its own, for which its name is known before validation."""
    units = []
    for with_loaders in (False, True):
        seed_everything(0)
        data, model = products(shop), Grad(**{**TINY, "map": {**TINY["map"], "scaled": True}})
        data.setup()
        loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
        given = loaders if with_loaders else {"datamodule": data}
        engine(tmp_path, max_epochs=1).fit(model, **given)
        assert model.categories == ["nut", "pin"]
        units.append(model.model.normal_scale.units)
    assert len(units[1]) == 3
    torch.testing.assert_close(units[1], units[0], rtol=0.1, atol=0)


def test_a_training_on_data_without_products_forgets_those_of_before(
    shop: Path, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Grad.load_from_checkpoint(run.checkpoints[-1])
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/spot"}
    data = Folder(name="nut", root=shop / "nut", **folders, train_batch_size=4, num_workers=0)
    engine(tmp_path, max_epochs=1).fit(model, datamodule=data)
    said = "do not name nut, pin, so the model forgets them. To keep them, pass its checkpoint as extends"
    assert said in caplog.text
    assert "cannot recognise" not in caplog.text
    assert model.categories == []
    judged = model.eval()(torch.rand(1, 3, 64, 64))
    assert not hasattr(judged, "explanation"), "by the threshold that was fitted now, not by one of the old network"


def test_a_category_that_comes_late_is_learned_then(shop: Path, tmp_path: Path) -> None:
    data = MultiCategory(root=shop, train_batch_size=1, num_workers=0, seed=0)
    seed_everything(0)  # one image an epoch, of either category
    model = Grad(**TINY)
    fitted: list[bool] = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            fitted.append(model.post_processor.recogniser.fitted)

    engine(tmp_path, Watch(), max_epochs=8, limit_train_batches=1, limit_val_batches=0).fit(model, datamodule=data)
    assert not fitted[0]
    assert fitted[-1]
    assert fitted == sorted(fitted)


def test_a_second_fit_learns_the_categories_again(shop: Path, tmp_path: Path) -> None:
    model = Grad(**TINY)
    for batches in (3, 1.0):
        seed_everything(0)
        data = products(shop)  # after the fit it reads images at the size of the model
        engine(tmp_path, max_epochs=1, limit_train_batches=batches).fit(model, datamodule=data)
        means = model.post_processor.recogniser.means.clone()
        model.post_processor.recogniser.means.add_(5)
        model.eval()  # as an export to ONNX leaves it
    seen = [(pool(model.model.backbone(model.pre_processor(b.image))), b.category) for b in data.train_dataloader()]
    features, names = torch.cat([f for f, _ in seen]), [name for _, some in seen for name in some]
    expected = features[[name == "nut" for name in names]].mean(dim=0)
    torch.testing.assert_close(means[0], expected, rtol=1e-3, atol=1e-4)


def test_checkpoints_that_do_not_fit_are_refused_in_one_sentence(shop: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointConfigurationError, match="fusion is 'small' in the checkpoint but 'mobile' in this model"
    ):
        engine(tmp_path).test(
            Grad(**{**TINY, "fusion": "mobile"}), datamodule=products(shop), ckpt_path=run.checkpoints[-1]
        )
    padim = engine(tmp_path)
    padim.fit(Padim(backbone="resnet18", pre_trained=False), datamodule=products(shop))
    with pytest.raises(CheckpointConfigurationError, match="not written by Grad"):
        engine(tmp_path).test(Grad(**TINY), datamodule=products(shop), ckpt_path=padim.best_model_path)
