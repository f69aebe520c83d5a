# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Names the checkpoint file at fault when reading it fails: torch says neither which file it is nor what to do."""

import os
import traceback
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from .configuration import CheckpointConfigurationError
from .faults import find_fault
from .refusals import reword
from .torch_files import load_mapped

READING = "torch.serialization"
CHECKING = "lightning.pytorch.utilities.migration"
"""Modules that look into a file before any model does."""
RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"
"""The module that gives a trainer, its loops, optimizers and callbacks their states."""


class CheckpointFileError(ValueError):
    """A file is damaged, no checkpoint, or one that must not be used."""


class NameUnreadableCheckpoint(Callback):
    """Makes the error of a run that could not read its ``ckpt_path`` name the file."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Rewrite the message of an exception that came from reading the checkpoint, or from what it holds."""
        if trainer.ckpt_path is None:
            return
        if isinstance(exception, CheckpointConfigurationError):
            failure: str | None = f"cannot use checkpoint {trainer.ckpt_path}: {exception}"
        else:
            failure = describe_failure(trainer.ckpt_path, exception)
        if failure is not None:
            reword(exception, failure)


def describe_failure(path: str | Path, exception: BaseException) -> str | None:
    """Say in one sentence why a checkpoint could not be read.

    Returns:
        The sentence, or ``None`` if the file is not at fault or not on this machine.
    """
    frames = traceback.walk_tb(exception.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    if RESTORING in modules and isinstance(exception, AttributeError | LookupError | TypeError):
        if "optimizer_states" not in load_mapped(Path(path)):
            return (
                f"cannot go on from checkpoint {path}: it holds weights alone (ModelCheckpoint's save_weights_only); "
                f"give one of a whole training, or train Grad.load_from_checkpoint({str(path)!r}) anew."
            )
        cause = f"{type(exception).__name__}: {exception}"
        return f"cannot go on from checkpoint {path}: its states are not what a training wrote ({cause}); give another."
    checked = any(module.startswith(CHECKING) for module in modules)
    if not (checked or READING in modules) or not Path(path).is_file():
        return None
    fault = find_fault(Path(path))
    return fault and sentence(Path(path), fault, path)


def sentence(path: Path, fault: str, name: object) -> str:
    """Say what is wrong with a checkpoint, and which one to go on from: the newest whole one beside it."""
    is_copy = not isinstance(name, str | Path) or not Path(name).exists()  # beside which there is nothing of the user's
    files = () if is_copy else path.parent.glob(f"*{path.suffix}")
    # a pipe would be waited for
    beside = (other for other in files if other != path and other.is_file() and os.access(other, os.R_OK))
    newest_first = sorted(beside, key=lambda other: other.stat().st_mtime, reverse=True)
    whole = next((repr(other.name)[1:-1] for other in newest_first if find_fault(other) is None), None)
    advice = "give one that Grad's training wrote" if whole is None else f"go on from {whole}, which is whole"
    return f"cannot read checkpoint {name}: {fault}; copy it again, or {advice}."
