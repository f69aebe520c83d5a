# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A model that was never trained judges nothing; one whose weights came from anywhere is never refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from anomalib.engine import Engine
from anomalib.models import Padim
from anomalib.post_processing import PostProcessor

from anomalib_grad.checkpoint.from_authors import save_model
from anomalib_grad.data import MultiCategory
from anomalib_grad.files.refusals import sentence_of
from anomalib_grad.lightning_model import Grad
from anomalib_grad.training.unusable_weights import NEVER_TRAINED, TWO_MODELS
from helpers import TINY


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, **quiet)


@pytest.fixture
def data(shop: Path) -> MultiCategory:
    return MultiCategory(root=shop, eval_batch_size=4, num_workers=0)


def with_a_state(_: Path) -> Grad:
    model = Grad(**TINY)
    model.load_state_dict(Grad(**TINY).state_dict())
    return model


def loaded(folder: Path) -> Grad:
    save_model(with_a_state(folder), folder / "some.ckpt")
    return Grad.load_from_checkpoint(folder / "some.ckpt")


@pytest.mark.parametrize("run", ["test", "predict"])
def test_a_forgotten_checkpoint_is_asked_for(
    engine: Engine, data: MultiCategory, run: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"never trained.*--ckpt_path.*engine\.fit") as error:
        getattr(engine, run)(Grad(**TINY), datamodule=data)
    assert sentence_of(error.value) == NEVER_TRAINED, "the command line prints it alone"
    assert "no thresholds" not in caplog.text, "the cause, not what follows from it"


def test_an_engine_that_has_run_grad_refuses_another_kind_of_model(engine: Engine, data: MultiCategory) -> None:
    engine.validate(Grad(**TINY), datamodule=data)
    engine.validate(Grad(**TINY), datamodule=data)
    with pytest.raises(ValueError, match="new Engine for each model") as error:
        engine.validate(Padim(backbone="resnet18", pre_trained=False), datamodule=data)
    assert sentence_of(error.value) == TWO_MODELS


def test_grad_refuses_an_engine_with_the_post_processor_of_another_model(engine: Engine, data: MultiCategory) -> None:
    engine.validate(Grad(**TINY), datamodule=data)
    engine.trainer.callbacks.append(PostProcessor())  # as a run of another model leaves it
    with pytest.raises(ValueError, match="new Engine for each model"):
        engine.validate(Grad(**TINY), datamodule=data)


def test_a_validation_before_training_goes_on_and_makes_nothing_of_the_model(
    engine: Engine, data: MultiCategory, tmp_path: Path, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.validate(Grad(**TINY), datamodule=data)
    assert caplog.text.count(NEVER_TRAINED) == 1
    engine.trainer.save_checkpoint(tmp_path / "validated.ckpt")
    with pytest.raises(ValueError, match="never trained"):
        engine.predict(Grad.load_from_checkpoint(tmp_path / "validated.ckpt"), data_path=shop / "nut/test/good")


@pytest.mark.parametrize("make", [loaded, with_a_state])
def test_weights_of_any_source_are_taken(
    engine: Engine, tmp_path: Path, shop: Path, make: Callable[[Path], Grad], caplog: pytest.LogCaptureFixture
) -> None:
    batches = engine.predict(make(tmp_path), data_path=shop / "nut/test/good", return_predictions=True)
    assert len(batches) == 2
    assert "never trained" not in caplog.text
