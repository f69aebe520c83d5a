# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole on the disk, and looked at before they are read, whoever asks for them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, cast

import lightning.pytorch as pl
import torch
from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.callbacks import Callback

from anomalib_grad.atomic import writing

from .unreadable_checkpoints import CheckpointFileError, check_checkpoint


class WholeCheckpointIO(AnomalibCheckpointIO):
    """anomalib's reading and writing of checkpoints; one on a local disk appears complete or not at all.

    Lightning writes to the system's temporary folder first. Where that is another file system than that of the results
    the checkpoint is then copied under its final name, and a kill or a full disk leaves half of it in place of the last
    whole one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401  # Lightning's
        """Write a checkpoint; arguments are Lightning's.

        Raises:
            OSError: If the folder cannot be written to, or is full; an older checkpoint is unchanged then.
        """
        target = local_path(path)
        if target is None or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = BytesIO()  # torch's own writing to a full disk does not say what is wrong
        torch.save(checkpoint, content)
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing(target) as unfinished:
            unfinished.write_bytes(content.getbuffer())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401  # Lightning's
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint; arguments are Lightning's, and only an explicit ``weights_only=False`` allows code in it.

        Raises:
            CheckpointFileError: If the file is damaged or must not be used.
        """
        with on_this_machine(path) as file:
            check_before_reading(file, self.extra_safe_globals, name=path)
            return super().load_checkpoint(file, map_location, weights_only=weights_only is not False)


def check_before_reading(
    path: str | Path, extra_safe_globals: Sequence[Any] = (), name: str | Path | IO[bytes] | None = None
) -> None:
    """Refuse a checkpoint on this machine that is damaged, claims more than it holds, or must not be used.

    Args:
        path: Path or URL of a checkpoint.
        extra_safe_globals: Classes in it besides those that anomalib allows, as for reading it.
        name: What the caller knows it by, if it is a copy.

    Raises:
        CheckpointFileError: If it does, or is a folder.
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
    check_checkpoint(target, extra_safe_globals, name)


@contextmanager
def on_this_machine(source: str | Path | IO[bytes]) -> Iterator[str | Path]:
    """Give the path of a checkpoint as a local file, so that it can be looked at before it is read.

    Args:
        source: Path, URL or open file; of the last two a temporary copy is made.
    """
    if isinstance(source, str | Path) and local_path(source) is not None:
        yield source
        return
    with NamedTemporaryFile(suffix=".ckpt") as copy, open_source(source) as content:
        shutil.copyfileobj(content, copy)
        copy.flush()
        yield copy.name


def open_source(source: str | Path | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    """Open a path or URL; leave an open file as it is."""
    if isinstance(source, str | Path):
        return cast("AbstractContextManager[IO[bytes]]", get_filesystem(source).open(str(source), "rb"))
    return nullcontext(source)


def local_path(path: str | Path) -> Path | None:
    """Give the file on this machine's file systems that a path or URL stands for; ``None`` if it stands elsewhere."""
    file_system = get_filesystem(path)
    local = getattr(file_system, "local_file", False)
    return Path(file_system._strip_protocol(str(path))) if local else None


class WholeCheckpoints(Callback):
    """Gives the trainer :class:`WholeCheckpointIO`, unless the user brought a plugin for checkpoints."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replace Lightning's and anomalib's own plugin."""
        del pl_module, stage
        present = trainer.strategy.checkpoint_io
        if type(present) in {TorchCheckpointIO, AnomalibCheckpointIO}:
            trainer.strategy.checkpoint_io = WholeCheckpointIO(getattr(present, "extra_safe_globals", ()))
