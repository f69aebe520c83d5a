# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as files: looked at before they are read, whoever asks for them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import lightning.pytorch as pl
import torch
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.fabric.utilities.cloud_io import get_filesystem

from .configuration import CheckpointConfigurationError
from .faults import OTHER_MODEL, find_fault
from .unreadable_checkpoints import CheckpointFileError, describe_failure, sentence


def check_before_reading(
    path: str | Path, extra_safe_globals: Sequence[Any] = (), name: str | Path | IO[bytes] | None = None
) -> None:
    """Refuse a checkpoint on this machine that is damaged, claims more than it holds, or must not be used.

    Args:
        path: Path or URL of a checkpoint.
        extra_safe_globals: Classes in it besides those that anomalib allows, as for reading it.
        name: What the caller knows it by, if it is a copy.

    Raises:
        CheckpointFileError: If it does, holds Python objects, names a function of its own to be called or a file of
            others to be deleted, has NaN or infinite weights, or is a folder or a pipe, which would be waited for.
        FileNotFoundError: If it is not there.
    """
    target = local_path(path)
    if target is None:
        return
    if target.is_dir():
        raise CheckpointFileError(f"cannot read checkpoint {path}: it is a folder; give the .ckpt file in it.")
    if not target.exists():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; give a .ckpt file, such as weights/lightning/model.ckpt of a training."
        )
    fault = find_fault(target, extra_safe_globals)
    if fault is not None and fault != OTHER_MODEL:  # which is left to those who compare configurations
        raise CheckpointFileError(sentence(target, fault, target if name is None else name))


@contextmanager
def on_this_machine(source: str | Path | IO[bytes]) -> Iterator[str | Path]:
    """Give the path of a checkpoint as a local file, so that it can be looked at before it is read.

    Args:
        source: Path, URL or open file; of the last two a temporary copy is made.
    """
    if isinstance(source, str | Path) and local_path(source) is not None:
        yield source
        return
    content = get_filesystem(source).open(str(source), "rb") if isinstance(source, str | Path) else nullcontext(source)
    with NamedTemporaryFile(suffix=".ckpt") as copy, content as original:
        shutil.copyfileobj(original, copy)
        copy.flush()
        yield copy.name


def local_path(path: str | Path) -> Path | None:
    """Give the file on this machine's file systems that a path or URL stands for; ``None`` if it stands elsewhere."""
    file_system = get_filesystem(path)
    local = getattr(file_system, "local_file", False)
    return Path(file_system._strip_protocol(str(path))) if local else None


def restore(module: pl.LightningModule, path: str | Path, extra_safe_globals: Sequence[Any] = ()) -> None:
    """Have a model take the weights of a checkpoint, and what else it brings for it, nothing of its training.

    Args:
        module: The model.
        path: Path or URL of the checkpoint.
        extra_safe_globals: Classes in it besides those that anomalib allows.

    Raises:
        CheckpointConfigurationError: If it does not fit.
        CheckpointFileError: If it is damaged or no checkpoint.
        FileNotFoundError: If it is not there.
    """
    with reading(path, extra_safe_globals) as file:
        with anomalib_safe_globals(extra=extra_safe_globals):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        try:
            module.on_load_checkpoint(checkpoint)
        except CheckpointConfigurationError as error:
            raise CheckpointConfigurationError(f"cannot start from {path}: {error}") from error
        module.load_state_dict(checkpoint["state_dict"])


@contextmanager
def reading(source: str | Path | IO[bytes], extra_safe_globals: Sequence[Any] = ()) -> Iterator[str | Path]:
    """Look at a checkpoint, give its path on this machine, and name it if it cannot be read in the block.

    Args:
        source: Path, URL or open file.
        extra_safe_globals: Classes in it besides those that anomalib allows.

    Raises:
        CheckpointFileError: If it is damaged or no checkpoint.
        FileNotFoundError: If it is not there.
    """
    with on_this_machine(source) as path:
        check_before_reading(path, extra_safe_globals, name=source)
        try:
            yield path
        except Exception as error:
            failure = describe_failure(path, error)
            if failure is None:
                raise
            raise CheckpointFileError(failure) from error
