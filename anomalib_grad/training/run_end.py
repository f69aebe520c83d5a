# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Exit status of an interrupted or failed run, and the message with its last checkpoint and the command to resume.

Left to itself, Lightning ends a run that receives SIGTERM, as job schedulers send it, with exit status 0.
"""

import logging
import shlex
import signal
import sys
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anomalib_grad.files.atomic import cannot_write, is_disk_error
from anomalib_grad.files.refusals import message, reword

from .length import OwnLength

logger = logging.getLogger(__name__)

PROGRAM = "anomalib"
TRAINING = {"train", "fit"}
COMMANDS = {*TRAINING, "validate", "test", "predict"}
"""Commands that take a checkpoint. A benchmark does not: its runs are resumed in Python, one by one."""
CHECKPOINT = "--ckpt_path"


class ExplainHowToResume(Callback):
    """Sets the exit status of a stopped run, and names its last checkpoint and the command to resume from it.

    Resuming a training that has reached its limit does nothing; a warning says so.
    """

    def __init__(self) -> None:
        self._trained = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the state of an earlier run.

        Raises:
            ValueError: If the trainer has finished an earlier training: it would treat this one as finished, too.
        """
        self._trained = False
        ended = trainer.fit_loop.done or any(map(has_stopped, trainer.early_stopping_callbacks))
        if stage == "fit" and trainer.ckpt_path is None and trainer.global_step and ended:
            raise ValueError(
                f"nothing is left to train: an earlier training of this Engine has {reached_limit(trainer, None)} to "
                f"train longer, or make a new Engine for another training."
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the checkpoint's training was stopped early: Lightning would train another epoch."""
        if trainer.ckpt_path is not None and any(map(has_stopped, trainer.early_stopping_callbacks)):
            trainer.should_stop = True

    def on_train_batch_start(self, *_: object) -> None:
        """Note that training has started."""
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
        """Stop an unfinished prediction after SIGTERM: predictions are the only runs that Lightning does not stop."""
        if trainer.received_sigterm and batch_idx + 1 < trainer.num_predict_batches[dataloader_idx]:
            raise SIGTERMException

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if the checkpoint's training had already reached its limit."""
        if trainer.ckpt_path is not None and not self._trained and trainer.is_global_zero:
            logger.warning(
                "nothing is left to train: the training of checkpoint %s has %s to train longer.",
                trainer.ckpt_path,
                reached_limit(trainer, cast("OwnLength", pl_module.own_length).limit),
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Set the exit status, name a folder that cannot be written to, and say how to resume."""
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + signal.SIGTERM
        if isinstance(exception, OSError) and is_disk_error(exception):
            named = cannot_write(Path(exception.filename or trainer.default_root_dir), exception)
            reword(exception, message(named))
        checkpoint = last_checkpoint(trainer)
        function = (trainer.state.fn or TrainerFn.FITTING).value
        resume_with = "" if checkpoint is None else resume_command(function, checkpoint, sys.argv)
        resumes = function == TrainerFn.FITTING  # all other runs begin anew
        if isinstance(exception, SystemExit | KeyboardInterrupt):  # no traceback follows
            stop = "SIGTERM" if isinstance(exception, SIGTERMException) else type(exception).__name__
            unsaved = "no checkpoint was written yet: " if resumes else ""
            again = "resume" if resumes else "start it again"
            advice = f"{again} with: {resume_with}" if resume_with else f"{unsaved}start it again"
            logger.warning("%s stopped before its end (%s); %s", function, stop, advice)
        elif resume_with and (  # from the same start it would fail in the same way
            self._trained if resumes else str(checkpoint) != str(trainer.ckpt_path)
        ):
            kept = f"The model is trained; start its {function} again"
            _add_note(exception, f"{'Resume from the last checkpoint' if resumes else kept} with: {resume_with}")


def has_stopped(early: EarlyStopping) -> bool:
    """Return whether early stopping has ended a training, by its patience or by any of its other criteria."""
    return early.stopping_reason != EarlyStoppingReason.NOT_STOPPED


def reached_limit(trainer: pl.Trainer, own_limit: str | None) -> str:
    """Describe the limit that a training has reached, and how to lift it."""
    if any(map(has_stopped, trainer.early_stopping_callbacks)):
        return "been stopped by EarlyStopping; remove this callback"
    limit = f"max_steps={trainer.max_steps}" if trainer.max_steps != -1 else f"max_epochs={trainer.max_epochs}"
    return f"reached {own_limit or limit}; raise this limit"


def last_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Return the newest checkpoint on this machine that a run has written or started from, or ``None``."""
    started_from = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    if started_from is not None and trainer.state.fn != TrainerFn.FITTING:
        return started_from  # the callbacks' paths are those of the training that wrote it
    saving = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    written = [path for each in saving for path in (each.best_model_path, each.last_model_path, *each.best_k_models)]
    files = [path for path in map(Path, filter(None, written)) if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime, default=started_from)


def resume_command(function: str, checkpoint: Path, arguments: list[str]) -> str:
    """Return the command line, or the Python call, that resumes a trainer's function from a checkpoint."""
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
    """Add a note as the last line of the traceback; Python 3.10 has no notes, so log it before the traceback there."""
    if hasattr(exception, "add_note"):
        exception.add_note(note)
    else:
        logger.warning(note)
