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
from .unreadable_checkpoints import CheckpointFileError, sentence


@contextmanager
def on_this_machine(source: str | Path | IO[bytes]) -> Iterator[Path]:
    """Give the path of a checkpoint as a local file, so that it can be looked at before it is read.

    Args:
        source: Path, URL or open file; of a URL elsewhere and of an open file a temporary copy is made.
    """
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
    """Give the file on this machine's file systems that a path or URL stands for; ``None`` if it stands elsewhere."""
    file_system = get_filesystem(path)
    local = getattr(file_system, "local_file", False)
    return Path(file_system._strip_protocol(str(path))) if local else None


def restore(module: pl.LightningModule, path: str | Path, extra_safe_globals: Sequence[Any]) -> None:
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
def reading(source: str | Path | IO[bytes], extra_safe_globals: Sequence[Any]) -> Iterator[Path]:
    """Look at a checkpoint before it is read, and give its path on this machine.

    Args:
        source: Path, URL or open file.
        extra_safe_globals: Classes in it besides those that anomalib allows, as for reading it.

    Raises:
        CheckpointFileError: If it is damaged, claims more than it holds, holds Python objects, names a function of its
            own to be called or a file of others to be deleted, has NaN or infinite weights, or is a folder or a pipe,
            which would be waited for.
        FileNotFoundError: If it is not there.
    """
    with on_this_machine(source) as path:
        if path.is_dir():
            raise CheckpointFileError(f"cannot read checkpoint {source}: it is a folder; give the .ckpt file in it.")
        if not path.exists():
            raise FileNotFoundError(
                f"there is no checkpoint {source}; give a .ckpt file, such as weights/lightning/model.ckpt of a "
                f"training."
            )
        fault = find_fault(path, extra_safe_globals)
        if fault is not None and fault != OTHER_MODEL:  # which is left to those who compare configurations
            raise CheckpointFileError(sentence(path, fault, source))
        yield path
