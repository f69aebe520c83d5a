# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Names the checkpoint file at fault when reading it fails: torch says neither which file it is nor what to do."""

import traceback
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile, ZipFile, is_zipfile

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from .configuration import find_oversized
from .torch_files import ExcessError, read_shapes

READING = "torch.serialization"
CHECKING = "lightning.pytorch.utilities.migration"
"""Modules that look into a file before any model does."""
ZIP_START = b"PK\x03\x04"
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
"""The function that Lightning's command line has called to build a model; older Lightning calls whatever is named."""


class CheckpointFileError(ValueError):
    """A file is damaged or no checkpoint."""


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint before it is read or a model is built.

    It is refused if it would take far more memory than it has bytes, or names a function of its own to be called.

    Raises:
        CheckpointFileError: If it is.
    """
    try:
        content = read_shapes(path)
    except ExcessError as error:
        raise CheckpointFileError(_sentence(path, str(error))) from error
    arguments = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(arguments, dict):
        return
    if arguments.get("_instantiator", INSTANTIATOR) != INSTANTIATOR:
        fault = f"it asks for {arguments['_instantiator']!r} to be called, which could do anything"
        raise CheckpointFileError(_sentence(path, fault))
    oversized = find_oversized(arguments, path.stat().st_size)
    if oversized is not None:
        fault = f"it holds no model of the size that its {oversized} of {arguments[oversized]} calls for"
        raise CheckpointFileError(_sentence(path, fault))


class NameUnreadableCheckpoint(Callback):
    """Makes the error of a run that could not read its ``ckpt_path`` name the file."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Rewrite the message of an exception that came from reading the checkpoint."""
        del pl_module
        failure = None if trainer.ckpt_path is None else describe_failure(trainer.ckpt_path, exception)
        if failure is not None:
            exception.args = (failure,)


def describe_failure(path: str | Path, exception: BaseException) -> str | None:
    """Say in one sentence why a checkpoint could not be read.

    Args:
        path: What was to be read.
        exception: What was raised.

    Returns:
        The sentence, or ``None`` if the file is not at fault or not on this machine.
    """
    frames = traceback.walk_tb(exception.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    checked = any(module.startswith(CHECKING) for module in modules)
    if not (checked or READING in modules) or not Path(path).is_file():
        return None
    fault = _fault_of_file(Path(path))
    if fault is None and checked:
        fault = "it holds something else than a training run"
    if fault is None and isinstance(exception, UnpicklingError):
        fault = "it holds Python objects, as an exported model does, and to load them could run anything"
    return fault and _sentence(Path(path), fault)


def _sentence(path: Path, fault: str) -> str:
    """Say what is wrong with a checkpoint, and which one to go on from: the newest whole one beside it."""
    others = sorted(
        (other for other in path.parent.glob(f"*{path.suffix}") if other != path and other.is_file()),
        key=lambda other: other.stat().st_mtime,
        reverse=True,
    )
    whole = next((other for other in others if _fault_of_file(other) is None), None)
    advice = "give one that Grad's training wrote" if whole is None else f"go on from {whole.name}, which is whole"
    return f"cannot read checkpoint {path}: {fault}; copy it again, or {advice}."


def _fault_of_file(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
    if start != ZIP_START:
        return "it is no checkpoint" if start else "it is empty"
    if not is_zipfile(path):
        return "it is cut short"
    try:
        with ZipFile(path) as archive:
            if archive.testzip() is not None:
                return "it is damaged"
            written_by_torch = any(name.endswith("/data.pkl") for name in archive.namelist())
            return None if written_by_torch else "it is no checkpoint"
    except BadZipFile:
        return "it is damaged"
