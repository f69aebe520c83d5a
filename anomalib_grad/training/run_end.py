# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How a run that does not end well says so: by its exit status, its last checkpoint, and the command that goes on.

Lightning ends a run that is told to stop (SIGTERM, as job schedulers send it) with exit status 0.
"""

import logging
import shlex
import signal
import sys
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anomalib_grad.files.atomic import cannot_write, is_disk_error
from anomalib_grad.files.refusals import message, reword

from .length import OwnLength

logger = logging.getLogger(__name__)

PROGRAM = "anomalib"
TRAINING = {"train", "fit"}
COMMANDS = {*TRAINING, "validate", "test", "predict"}
"""Those that take a checkpoint; of a benchmark, one run is gone on with in Python."""
CHECKPOINT = "--ckpt_path"


class SayHowToGoOn(Callback):
    """Gives a run that was stopped its exit status, and names the checkpoint and the command that goes on from it.

    A training that has ended is not gone on with by resuming it: that does nothing, and says so.
    """

    def __init__(self) -> None:
        self._trained = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note that nothing has been done yet.

        Raises:
            ValueError: If the trainer has ended another training, whose end it would take for that of this one.
        """
        self._trained = False
        if stage == "fit" and trainer.ckpt_path is None and trainer.global_step and trainer.fit_loop.done:
            raise ValueError(
                f"nothing is left to train: an earlier training of this Engine has {reached_limit(trainer, None)} to "
                f"train longer, or make a new Engine for another training."
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Expect a training, unless a checkpoint is of one that was stopped early: Lightning trains another epoch."""
        if trainer.ckpt_path is not None and any(map(has_stopped, trainer.early_stopping_callbacks)):
            trainer.should_stop = True

    def on_train_batch_start(self, *_: object) -> None:
        """Note that there is a training."""
        self._trained = True

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop a prediction that is told to, unless it is done: of all runs Lightning leaves these to go on."""
        if trainer.received_sigterm and batch_idx + 1 < trainer.num_predict_batches[dataloader_idx]:
            raise SIGTERMException

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so where a checkpoint was of a training that had ended."""
        if trainer.ckpt_path is not None and not self._trained and trainer.is_global_zero:
            logger.warning(
                "nothing is left to train: the training of checkpoint %s has %s to train longer.",
                trainer.ckpt_path,
                reached_limit(trainer, cast("OwnLength", pl_module.own_length).limit),
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Set the exit status, name a folder that cannot be written to, and tell how to go on."""
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + signal.SIGTERM
        if isinstance(exception, OSError) and is_disk_error(exception):
            named = cannot_write(Path(exception.filename or trainer.default_root_dir), exception)
            reword(exception, message(named))
        checkpoint = last_checkpoint(trainer)
        function = (trainer.state.fn or TrainerFn.FITTING).value
        way = "" if checkpoint is None else command(function, checkpoint, sys.argv)
        if isinstance(exception, SystemExit | KeyboardInterrupt):  # no traceback follows
            stop = "SIGTERM" if isinstance(exception, SIGTERMException) else type(exception).__name__
            without = "no checkpoint was written yet" if function == TrainerFn.FITTING else "start it again"
            advice = f"go on with: {way}" if way else without
            logger.warning("%s stopped before its end (%s); %s", function, stop, advice)
        elif way and (self._trained or str(checkpoint) != str(trainer.ckpt_path)):  # the same again would end the same
            _add_note(exception, f"Go on from the last checkpoint with: {way}")


def has_stopped(early: EarlyStopping) -> bool:
    """Tell whether early stopping has ended a training, and would do so again."""
    return early.stopped_epoch > 0 and early.wait_count >= early.patience


def reached_limit(trainer: pl.Trainer, own_limit: str | None) -> str:
    """Describe the limit that a training has reached, and what to do."""
    if any(map(has_stopped, trainer.early_stopping_callbacks)):
        return "been stopped by EarlyStopping; leave that out"
    limit = f"max_steps={trainer.max_steps}" if trainer.max_steps != -1 else f"max_epochs={trainer.max_epochs}"
    return f"reached {own_limit or limit}; raise that"


def last_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Find the newest checkpoint on this machine that a run has written, or started from; ``None`` if there is none."""
    started_from = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    if started_from is not None and trainer.state.fn != TrainerFn.FITTING:
        return started_from  # callbacks know the paths of the training that wrote it
    saving = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    written = [path for each in saving for path in (each.best_model_path, each.last_model_path, *each.best_k_models)]
    files = [path for path in map(Path, filter(None, written)) if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime, default=started_from)


def command(function: str, checkpoint: Path, arguments: list[str]) -> str:
    """Give what goes on from a checkpoint with a function of the trainer's: a command line as this one, or Python."""
    program, *given = arguments
    if Path(program).stem != PROGRAM or not COMMANDS.intersection(given):
        return f"engine.{function}(model, ..., ckpt_path={str(checkpoint)!r})"
    kept = [
        argument
        for before, argument in zip(["", *given], given, strict=False)
        if CHECKPOINT not in {before, argument} and not argument.startswith(f"{CHECKPOINT}=")
    ]
    again = [function if argument in TRAINING else argument for argument in kept]
    return shlex.join([PROGRAM, *again, CHECKPOINT, str(checkpoint)])


def _add_note(exception: BaseException, note: str) -> None:
    """Have the last line of a traceback say it; of Python 3.10, which has no notes, the line before."""
    if hasattr(exception, "add_note"):
        exception.add_note(note)
    else:
        logger.warning(note)
