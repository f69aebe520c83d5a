# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How long a recipe in steps trains, when it validates, and that its schedule ends with it."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from anomalib_grad.data import MultiCategory
from anomalib_grad.files.configuration import CheckpointConfigurationError
from anomalib_grad.lightning_model import Grad
from helpers import tiny

pytestmark = pytest.mark.slow


class Watch(Callback):
    """Notes the learning rate after each training step, and the step of each validation."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.validated: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)


class Run(NamedTuple):
    model: Grad
    watch: Watch
    trainer: Trainer


def fit(
    shop: Path, folder: Path, model: Grad, *callbacks: Callback, ckpt_path: str | None = None, **limits: Any
) -> Run:
    """Train on three batches an epoch."""
    watch = Watch()
    engine = Engine(
        callbacks=[watch, *callbacks], default_root_dir=folder, accelerator="cpu", devices=1, logger=False, **limits
    )
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0)
    engine.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return Run(model, watch, engine.trainer)


def quick(**changed: Any) -> Grad:
    """A small Grad with the length of the quick recipes."""
    return Grad("fast", **tiny(warmup_steps=1, **changed))


@pytest.fixture(scope="module")
def finished(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of ten steps."""
    return fit(shop, tmp_path_factory.mktemp("finished"), quick(steps=10))


def test_steps_are_trained_in_whole_epochs_and_validated_once(finished: Run) -> None:
    assert len(finished.watch.rates) == 9
    assert finished.watch.validated == [9]
    assert finished.model.post_processor.category_image_threshold.isfinite().all()


def test_the_schedule_ends_with_the_training(finished: Run) -> None:
    assert finished.watch.rates[-1] == 0
    assert all(rate > 0 for rate in finished.watch.rates[:-1])


@pytest.mark.parametrize("place", ["auto", "memory"])
def test_a_finished_training_trains_no_step_more_and_computes_no_features(
    shop: Path, finished: Run, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = finished.trainer.checkpoint_callback.best_model_path
    again = fit(shop, tmp_path, Grad(feature_cache=place), ckpt_path=path)
    assert again.watch.rates == []
    assert f"checkpoint {path} has reached training.steps=10; raise this limit to train longer" in caplog.text
    assert (again.model.recipe, again.trainer.max_epochs) == ("fast", 3)
    assert again.model.feature_caching.rows is None
    assert finished.model.feature_caching.rows is not None


def test_a_checkpoint_of_another_recipe_is_refused(shop: Path, finished: Run, tmp_path: Path) -> None:
    with pytest.raises(CheckpointConfigurationError, match="trained with recipe 'fast', not 'plus': omit the recipe"):
        fit(shop, tmp_path, Grad("plus"), ckpt_path=finished.trainer.checkpoint_callback.best_model_path)


@pytest.mark.parametrize(
    ("changed", "limits", "steps", "validated"),
    [
        ({"steps": 1}, {}, 6, [6]),  # two passes at the least
        ({"steps": 10, "most_passes": 2}, {}, 6, [6]),
        ({}, {"max_epochs": 1}, 3, [3]),
        ({}, {"max_steps": 4}, 4, [4]),
        ({"steps": 10, "validate_every": 2}, {}, 9, [6, 9]),
        ({"steps": 10}, {"check_val_every_n_epoch": 2}, 9, [6, 9]),
        ({"steps": 1}, {"val_check_interval": 2}, 6, [2, 5, 6]),
    ],
    ids=["passes", "most passes", "max_epochs", "max_steps", "every", "check_val_every_n_epoch", "val_check_interval"],
)
def test_the_users_limits_win_and_thresholds_are_fitted_at_the_end(
    shop: Path, tmp_path: Path, changed: dict[str, Any], limits: dict[str, Any], steps: int, validated: list[int]
) -> None:
    run = fit(shop, tmp_path, quick(**changed), **limits)
    assert len(run.watch.rates) == steps
    assert run.watch.validated == validated
    assert run.model.post_processor.image_threshold.isfinite()


def test_a_callback_that_monitors_a_figure_has_it_after_each_epoch(shop: Path, tmp_path: Path) -> None:
    stop = EarlyStopping("train_loss", stopping_threshold=1e9)
    run = fit(shop, tmp_path, quick(steps=10), stop)
    assert (len(run.watch.rates), run.watch.validated) == (3, [3])


def test_a_training_without_validation_says_that_thresholds_are_missing(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = True

    with caplog.at_level(logging.WARNING):
        fit(shop, tmp_path, quick(steps=10), Stop())
    assert "has no thresholds, so its labels mean nothing: training ended without a validation" in caplog.text
    assert len(list(tmp_path.rglob("model.ckpt"))) == 1  # from which it goes on
