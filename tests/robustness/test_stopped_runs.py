# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped says so by its exit status and tells how to go on; one that has ended is not trained again."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, StochasticWeightAveraging
from torch.multiprocessing import ProcessRaisedException

from anomalib_grad.data import MultiCategory
from anomalib_grad.files.faults import find_fault
from anomalib_grad.lightning_model import Grad
from anomalib_grad.report import DistinctImageVisualizer
from anomalib_grad.training.run_end import resume_command
from helpers import TINY, tiny
from whole_run import Process

pytestmark = pytest.mark.slow


class CountSteps(Callback):
    steps = 0

    def on_train_batch_end(self, *_: object) -> None:
        self.steps += 1


class NoteCheckpoint(Callback):
    """Says when there is a checkpoint."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.note("saved")


def fit(shop: Path, folder: Path, *callbacks: Callback, ckpt_path: Path | None = None, epochs: int = 1) -> Engine:
    engine = Engine(
        callbacks=[ModelCheckpoint(folder, "last", enable_version_counter=False), *callbacks],
        default_root_dir=folder / "results",
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
    )
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0)
    engine.fit(Grad(**TINY, evaluator=False, visualizer=False), datamodule=data, ckpt_path=ckpt_path)
    return engine


def fit_told_to_stop_while_caching(
    shop: Path, folder: Path, number: int, recipe: str, place: str, note: Callable[[str], None]
) -> None:
    """Stop the run in the second of several batches of features, and note each batch."""

    def count(*_: object) -> None:
        batches.append(0)
        note(f"batch {len(batches)}")
        if len(batches) == 2:
            os.kill(os.getpid(), number)

    batches: list[int] = []
    model = Grad(
        recipe,
        **tiny(copies=0),
        evaluator=False,
        visualizer=False,
        feature_cache=place,
        cache={"folder": folder / "cache"},
    )
    model.model.backbone.network.register_forward_hook(count)
    data = MultiCategory(root=shop, train_batch_size=2, eval_batch_size=4, num_workers=0)
    Engine(default_root_dir=folder / "results", accelerator="cpu", devices=1, logger=False).fit(model, datamodule=data)


def fit_without_end(shop: Path, folder: Path, note: Callable[[str], None]) -> None:
    fit(shop, folder, NoteCheckpoint(note), epochs=100_000)


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 1, "KeyboardInterrupt")]
)
def test_a_stopped_run_is_no_success(shop: Path, tmp_path: Path, number: int, status: int, name: str) -> None:
    process = Process(fit_without_end, shop, tmp_path, log=tmp_path / "log")
    process.wait_for("saved")
    os.kill(process.process.pid, number)
    process.process.join(60)
    assert process.process.exitcode == status
    checkpoint = tmp_path / "last.ckpt"
    assert (tmp_path / "log").read_text().splitlines()[-1] == (
        f"fit stopped before its end ({name}); resume with: engine.fit(model, ..., ckpt_path='{checkpoint}')"
    )
    assert find_fault(checkpoint) is None
    assert not list(tmp_path.rglob("*.unfinished"))


@pytest.mark.parametrize(("recipe", "place"), [("plus", "disk"), ("crad", "memory")])
@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 1, "KeyboardInterrupt")]
)
def test_a_run_that_is_stopped_while_features_are_cached_stops_within_a_batch(
    shop: Path, tmp_path: Path, number: int, status: int, name: str, recipe: str, place: str
) -> None:
    arguments = (shop, tmp_path, number, recipe, place)
    process = Process(fit_told_to_stop_while_caching, *arguments, log=tmp_path / "log")
    heard = [process.hear(60) for _ in range(3)]
    process.process.join(60)
    assert heard == ["batch 1", "batch 2", None]
    assert process.process.exitcode == status
    assert (tmp_path / "log").read_text().splitlines()[-1] == (
        f"fit stopped before its end ({name}); no checkpoint was written yet: start it again"
    )
    assert not [path for path in tmp_path.glob("cache/*") if path.suffix != ".lock"]


NO_STOP: dict[str, Any] = {}
BY_PATIENCE = {"min_delta": 1e9, "patience": 1}
BY_THRESHOLD = {"stopping_threshold": 1e9}  # after the first epoch, the only one that Lightning counts as 0


@pytest.mark.parametrize("early", [NO_STOP, BY_PATIENCE, BY_THRESHOLD], ids=["max_epochs", "patience", "threshold"])
def test_a_finished_run_is_not_trained_again_and_says_so(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, early: dict[str, Any]
) -> None:
    def stopping() -> list[Callback]:
        return [EarlyStopping("train_loss", **early)] if early else []

    fit(shop, tmp_path, *stopping(), epochs=9 if early else 1)
    checkpoint = tmp_path / "last.ckpt"
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    count = CountSteps()
    engine = fit(shop, tmp_path / "again", *stopping(), count, ckpt_path=checkpoint, epochs=9 if early else 1)
    assert count.steps == 0
    after = engine.model.state_dict()
    assert [name for name in before if not torch.equal(before[name].nan_to_num(), after[name].nan_to_num())] == []
    reason = (
        "been stopped by EarlyStopping; remove this callback" if early else "reached max_epochs=1; raise this limit"
    )
    assert f"nothing is left to train: the training of checkpoint {checkpoint} has {reason} to train longer." in (
        caplog.text
    )


@pytest.fixture(scope="module")
def ended(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Grad]:
    """An engine whose training has ended, and its model."""
    engine = fit(shop, tmp_path_factory.mktemp("ended"))
    engine.trainer.save_checkpoint(saved(engine))
    return engine, cast("Grad", engine.model)


def saved(engine: Engine) -> str:
    return f"{engine.trainer.default_root_dir}/one.ckpt"


def test_a_second_training_of_an_engine_is_refused_before_it_changes_a_model(
    shop: Path, ended: tuple[Engine, Grad]
) -> None:
    engine, trained = ended
    data = MultiCategory(root=shop, categories=["pin"], train_batch_size=4, num_workers=0)
    for model in (trained, Grad(**TINY, evaluator=False, visualizer=False)):
        with pytest.raises(
            ValueError, match=r"nothing is left to train: .* max_epochs=1; .* make a new Engine"
        ) as error:
            engine.fit(model, datamodule=data)
        assert not getattr(error.value, "__notes__", ()), "a resumed training would have nothing left to train either"
    assert trained.categories == ["nut", "pin"], "those of the training that there was"


def test_a_second_training_of_an_engine_is_refused_where_early_stopping_ended_the_first(
    shop: Path, tmp_path: Path
) -> None:
    count = CountSteps()
    engine = fit(shop, tmp_path, EarlyStopping("train_loss", **BY_THRESHOLD), count, epochs=9)
    steps = count.steps
    data = MultiCategory(root=shop, train_batch_size=4, num_workers=0)
    with pytest.raises(ValueError, match=r"nothing is left to train: .* EarlyStopping; .* make a new Engine"):
        engine.fit(engine.model, datamodule=data)
    assert count.steps == steps


@pytest.mark.parametrize("stage", ["predict", "test"])
@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 1, "KeyboardInterrupt")]
)
def test_runs_that_judge_are_stopped_as_trainings_are(
    shop: Path, tmp_path: Path, ended: tuple[Engine, Grad], caplog: pytest.LogCaptureFixture, stage: str, number: int,
    status: int, name: str,
) -> None:  # fmt: skip
    judged: list[object] = []

    class StopInSecond(Callback):
        def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, *_: int) -> None:
            judged.append(batch)
            if len(judged) == 2:
                os.kill(os.getpid(), number)

        on_test_batch_start = on_predict_batch_start

    checkpoint, again = None, "start it again"
    if stage == "test":
        checkpoint = saved(ended[0])
        again += f" with: engine.test(model, ..., ckpt_path='{checkpoint}')"
    data = MultiCategory(root=shop, eval_batch_size=1, num_workers=0)
    callbacks = [StopInSecond(), DistinctImageVisualizer()]
    engine = Engine(callbacks=callbacks, default_root_dir=tmp_path, accelerator="cpu", logger=False)
    of_tests = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # in whose place Lightning puts none of its own
    try:
        with pytest.raises(SystemExit) as stopped:
            getattr(engine, stage)(ended[1], datamodule=data, ckpt_path=checkpoint)
    finally:
        signal.signal(signal.SIGTERM, of_tests)
    assert (stopped.value.code, len(judged)) == (status, 2)
    assert f"{stage} stopped before its end ({name}); {again}" in [record.getMessage() for record in caplog.records]
    tables = [len(file.read_text().splitlines()) for file in tmp_path.rglob("predictions.csv")]
    images = 1 if number == signal.SIGINT else 2  # SIGTERM lets a batch end
    assert tables == ([1 + images] if stage == "predict" else []), "a header and the images judged so far"


def test_a_checkpoint_is_not_advised_where_nothing_goes_on_from_it(shop: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.ckpt"
    fit(shop, tmp_path).trainer.save_checkpoint(weights, weights_only=True)
    sentence = rf"cannot resume from checkpoint {weights}: it holds only weights .*load_from_checkpoint\('{weights}'\)"
    with pytest.raises(KeyError, match=sentence) as error:
        fit(shop, tmp_path / "again", ckpt_path=weights, epochs=2)
    assert not getattr(error.value, "__notes__", [])
    engine = Engine(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=1, logger=False)
    moved = shutil.copy(tmp_path / "last.ckpt", tmp_path / "moved.ckpt")
    with pytest.raises(ValueError, match="There is no category 'cup'") as error:  # with whichever checkpoint
        engine.predict(Grad(**TINY, category="cup"), data_path=shop / "nut/test/good", ckpt_path=moved)
    assert not getattr(error.value, "__notes__", [])
    engine.fit(Grad.load_from_checkpoint(weights), datamodule=MultiCategory(root=shop, num_workers=0))


def test_resuming_on_other_products_is_refused(shop: Path, tmp_path: Path) -> None:
    fit(shop, tmp_path)
    wider = shutil.copytree(shop, tmp_path / "wider")
    shutil.copytree(shop / "nut", wider / "cup")
    refused = f"cannot use checkpoint {tmp_path}/last.ckpt: its training learns nut, pin, and the data contain cup, "
    with pytest.raises(ValueError, match=f"{refused}nut, pin: resume with the same products") as error:
        fit(wider, tmp_path / "again", ckpt_path=tmp_path / "last.ckpt", epochs=2)
    assert not getattr(error.value, "__notes__", []), "no advice to resume once more"
    shutil.rmtree(wider / "nut")
    with pytest.raises(ValueError, match=f"{refused}pin: "):
        fit(wider, tmp_path / "again", ckpt_path=tmp_path / "last.ckpt", epochs=2)


def test_an_error_in_the_test_after_a_training_says_that_the_model_is_kept(shop: Path, tmp_path: Path) -> None:
    class Fail(Callback):
        def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise RuntimeError("the camera's folder is gone")

    engine = fit(shop, tmp_path, Fail())
    with pytest.raises(RuntimeError, match="folder is gone") as error:
        engine.test(engine.model, datamodule=MultiCategory(root=shop, num_workers=0))
    advice = "The model is trained; start its test again with: engine.test(model, ..., ckpt_path="
    assert error.value.__notes__ == [f"{advice}'{engine.best_model_path}')"]


def test_averages_of_more_than_weights_are_refused_with_what_works(shop: Path, tmp_path: Path) -> None:
    fit(shop, tmp_path / "first", StochasticWeightAveraging(1e-2, swa_epoch_start=1), epochs=2)
    with pytest.raises(ValueError, match=r"EMAWeightAveraging cannot average Grad.* use StochasticWeightAveraging"):
        fit(shop, tmp_path / "second", EMAWeightAveraging())


def test_processes_that_would_keep_what_is_known_of_products_to_themselves_are_refused(
    shop: Path, tmp_path: Path
) -> None:
    engine = Engine(strategy="ddp_fork", devices=1, accelerator="cpu", default_root_dir=tmp_path, logger=False)
    with pytest.raises(ProcessRaisedException, match="use strategy='ddp' in a script, or devices=1"):
        engine.fit(Grad(**TINY), datamodule=MultiCategory(root=shop, num_workers=0))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["anomalib", "train", "--model", "Grad"], "anomalib fit --model Grad --ckpt_path 'a b.ckpt'"),
        (
            ["/env/bin/anomalib", "fit", "--ckpt_path", "old.ckpt", "--model", "Grad", "--ckpt_path=older.ckpt"],
            "anomalib fit --model Grad --ckpt_path 'a b.ckpt'",
        ),
        (["train.py", "fit"], "engine.fit(model, ..., ckpt_path='a b.ckpt')"),
        (["anomalib", "benchmark", "--config", "a.yaml"], "engine.fit(model, ..., ckpt_path='a b.ckpt')"),
        (["anomalib"], "engine.fit(model, ..., ckpt_path='a b.ckpt')"),
    ],
)
def test_the_way_on_is_the_same_command_from_the_checkpoint(given: list[str], expected: str) -> None:
    assert resume_command("fit", Path("a b.ckpt"), given) == expected


def test_a_test_that_follows_a_training_is_repeated_alone() -> None:
    given = ["anomalib", "train", "--model", "Grad"]
    assert resume_command("test", Path("a.ckpt"), given) == "anomalib test --model Grad --ckpt_path a.ckpt"
