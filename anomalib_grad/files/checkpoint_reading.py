# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: check them before loading and say why one cannot be loaded; torch does neither."""

import os
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import lightning.pytorch as pl
import torch
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.callbacks import Callback

from .configuration import CheckpointConfigurationError
from .faults import OTHER_MODEL, find_fault
from .refusals import reword
from .torch_files import load_mapped

LOADING_MODULE = "torch.serialization"
MIGRATION_MODULE = "lightning.pytorch.utilities.migration"
"""Modules that read a checkpoint file before any model sees its content."""
RESTORING_MODULE = "lightning.pytorch.trainer.connectors.checkpoint_connector"
"""The module that restores the states of a trainer, its loops, optimizers and callbacks."""


class CheckpointFileError(ValueError):
    """A file is damaged, is not a checkpoint, or must not be used."""


@contextmanager
def local_copy(source: str | Path | IO[bytes]) -> Iterator[Path]:
    """Yield a checkpoint as a local file; remote URLs and open files are copied to a temporary one."""
    target = local_path(source) if isinstance(source, str | Path) else None
    if target is not None:
        yield target
        return
    content = get_filesystem(source).open(str(source), "rb") if isinstance(source, str | Path) else nullcontext(source)
    with NamedTemporaryFile(suffix=".ckpt") as copy, content as original:
        shutil.copyfileobj(original, copy)
        copy.flush()
        yield Path(copy.name)


def local_path(path: str | Path) -> Path | None:
    """Return the local file that a path or URL stands for, or ``None`` if it is remote."""
    file_system = get_filesystem(path)
    local = getattr(file_system, "local_file", False)
    return Path(file_system._strip_protocol(str(path))) if local else None


def restore(module: pl.LightningModule, path: str | Path, extra_safe_globals: Sequence[Any]) -> None:
    """Load a checkpoint's weights and its other data for the model, but no training state.

    Arguments are those of :func:`checked_checkpoint`.

    Raises:
        CheckpointConfigurationError: If the checkpoint does not fit the model.
        CheckpointFileError: If it is damaged or not a checkpoint.
        FileNotFoundError: If it does not exist.
    """
    with checked_checkpoint(path, extra_safe_globals) as file:
        with anomalib_safe_globals(extra=extra_safe_globals):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        try:
            module.on_load_checkpoint(checkpoint)
        except CheckpointConfigurationError as error:
            raise CheckpointConfigurationError(f"cannot start from {path}: {error}") from error
        module.load_state_dict(checkpoint["state_dict"])


@contextmanager
def checked_checkpoint(source: str | Path | IO[bytes], extra_safe_globals: Sequence[Any]) -> Iterator[Path]:
    """Check a checkpoint before it is loaded, and yield its local path.

    Args:
        source: Path, URL or open file.
        extra_safe_globals: Classes to allow in it besides anomalib's, as when loading it.

    Raises:
        CheckpointFileError: If it is damaged, claims more than it holds, holds Python objects, names a function to call
            or other files to delete, has NaN or infinite weights, or is a folder or a pipe, which would block.
        FileNotFoundError: If it does not exist.
    """
    with local_copy(source) as path:
        if path.is_dir():
            raise CheckpointFileError(f"cannot read checkpoint {source}: it is a folder; give the .ckpt file in it.")
        if not path.exists():
            raise FileNotFoundError(
                f"there is no checkpoint {source}; give a .ckpt file, such as weights/lightning/model.ckpt in the "
                f"results of a training."
            )
        fault = find_fault(path, extra_safe_globals)
        if fault is not None and fault != OTHER_MODEL:  # the comparison of configurations reports it
            raise CheckpointFileError(describe_fault(path, fault, source))
        yield path


class NameUnreadableCheckpoint(Callback):
    """Callback that names the file in the error of a run that could not load its ``ckpt_path``, and forgets the file.

    Lightning keeps a checkpoint that it could not restore, and the trainer's next run would load it unasked.
    """

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Rewrite the message of an exception that came from reading the checkpoint or from its content."""
        failure = None if trainer.ckpt_path is None else describe_failure(trainer.ckpt_path, exception)
        if failure is not None:
            reword(exception, failure)
        trainer._checkpoint_connector._loaded_checkpoint = {}


def describe_failure(path: str | Path, exception: BaseException) -> str | None:
    """Say in one sentence why a checkpoint could not be loaded; ``None`` if it is not at fault or is remote."""
    if isinstance(exception, CheckpointConfigurationError):
        return f"cannot use checkpoint {path}: {exception}"
    frames = traceback.walk_tb(exception.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    if RESTORING_MODULE in modules and isinstance(exception, AttributeError | LookupError | TypeError):
        if "optimizer_states" not in load_mapped(Path(path)):
            return (
                f"cannot resume from checkpoint {path}: it holds only weights (save_weights_only of ModelCheckpoint). "
                f"Give a checkpoint with the state of the training, or start a new training of "
                f"Grad.load_from_checkpoint({str(path)!r})."
            )
        cause = f"{type(exception).__name__}: {exception}"
        return f"cannot resume from checkpoint {path}: its training state is not complete ({cause}); give another one."
    reading = any(module.startswith((LOADING_MODULE, MIGRATION_MODULE)) for module in modules)
    if not reading or not Path(path).is_file():
        return None
    fault = find_fault(Path(path))
    return fault and describe_fault(Path(path), fault, path)


def describe_fault(path: Path, fault: str, name: object) -> str:
    """Say what is wrong with a checkpoint, and suggest the newest whole one beside it."""
    is_copy = not isinstance(name, str | Path) or not Path(name).exists()  # no file of the user's lies beside it
    files = () if is_copy else path.parent.glob(f"*{path.suffix}")
    # is_file, as reading a pipe would block
    beside = (other for other in files if other != path and other.is_file() and os.access(other, os.R_OK))
    newest_first = sorted(beside, key=lambda other: other.stat().st_mtime, reverse=True)
    whole = next((repr(other.name)[1:-1] for other in newest_first if find_fault(other) is None), None)
    advice = "give another checkpoint of Grad" if whole is None else f"use {whole}, which is undamaged"
    return f"cannot read checkpoint {name}: {fault}; copy it again, or {advice}."
