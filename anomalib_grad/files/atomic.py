# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Write a file completely or not at all."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile, gettempdir

UNFINISHED = ".unfinished"
LEFTOVER_SECONDS = 24 * 3600
"""Age at which a folder to write in belongs to no run any more: a killed one has left it."""
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
"""Errors of a medium, not of what is read or computed meanwhile."""
_BLOCK = 2**20
"""Bytes that are written at once to find out whether a disk is full."""


class CannotWriteError(OSError):
    """Something could not be written, because a disk is full or must not be written to."""


@contextmanager
def writing(target: str | Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``target`` when the block ends without an error.

    Neither a kill nor a power cut leaves half a file under the final name. What killed runs left beside it is removed
    after a day.

    Args:
        target: The file to write; an existing one stays as it is until then.

    Yields:
        A path on the same file system.

    Raises:
        FileNotFoundError: If the target's folder does not exist.
        IsADirectoryError: If the target is a folder.
        CannotWriteError: If the target's folder cannot be written to, or is full.
    """
    target = Path(target)
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder; name a file to write.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write {target.name!r} to; create it.")
    with naming_disk(target), folder_beside(target) as folder:
        unfinished = Path(folder) / target.name
        yield unfinished
        with unfinished.open("rb+") as file:  # the content before the name: a power cut must not leave an empty file
            os.fsync(file.fileno())
        unfinished.replace(target)


def write_text(target: Path, text: str, errors: str | None = None) -> None:
    """Write a text whole or not at all, into a folder that is made if missing; ``errors`` are those of its encoding."""
    make_folder(target.parent)
    with writing(target) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors=errors)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        CannotWriteError: If that is impossible, as where a file stands in its way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextmanager
def naming_disk(target: Path, size: int = 0) -> Iterator[None]:
    """Name what could not be written, and what to do, where a disk is full or must not be written to.

    Args:
        target: The file or folder that is written in the block.
        size: Bytes that are about to be written: some libraries do not say that the disk is to blame.

    Raises:
        CannotWriteError: In place of what was raised, which is its cause.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        fault = _fault_of_disk(target, error, size)
        if fault is None:
            raise
        raise cannot_write(target, fault) from error


@contextmanager
def naming_temporary_folder() -> Iterator[None]:
    """Name the folder for temporary files, where users chose none of what could not be written in the block.

    Raises:
        CannotWriteError: In place of another one, which is its cause.
    """
    try:
        yield
    except CannotWriteError as error:
        number = error.errno or errno.EIO
        advice = "make room there, or set TMPDIR to a folder that has some"
        if number == errno.EFBIG:
            advice = "allow larger files (ulimit -f), or set TMPDIR to a folder that takes them"
        raise CannotWriteError(
            number,
            f"cannot write to {gettempdir()!r}, the folder for temporary files ({os.strerror(number)}); {advice}, then "
            "start again.",
        ) from error


def folder_beside(target: Path) -> "TemporaryDirectory[str]":
    """Make a folder to write ``target`` in, beside it: a file can be renamed only within its file system.

    What runs that were killed more than a day ago left of ``target`` is removed.

    Raises:
        OSError: If it cannot be made.
    """
    oldest = time.time() - LEFTOVER_SECONDS
    for folder in target.parent.glob(f".{escape(target.name)}.*{UNFINISHED}"):
        with suppress(FileNotFoundError):  # another run writes the same file, or removes the same folder
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder)
    return TemporaryDirectory(
        prefix=f".{target.name}.", suffix=UNFINISHED, dir=target.parent, ignore_cleanup_errors=True
    )


def cannot_write(target: Path, error: OSError, setting: str | None = None) -> CannotWriteError:
    """Say what could not be written, why, and what to do; ``setting`` names the folder."""
    return CannotWriteError(
        error.errno,
        f"cannot write {str(target)!r} ({error.strerror}), and what stood there is unchanged; make room or name a "
        f"folder that can be written to{f' ({setting})' if setting else ''}, then start again.",
    )


def is_of_disk(error: BaseException) -> bool:
    """Tell whether an error is of the medium that something was to be written to, or of its folder's permissions."""
    if not isinstance(error, OSError) or isinstance(error, CannotWriteError):  # which is named already
        return False
    if error.errno in {errno.EACCES, errno.EPERM} and isinstance(error.filename, str | os.PathLike):
        return not os.access(_nearest_folder(Path(error.filename)), os.W_OK)  # else something could not be read
    return error.errno in UNWRITABLE


def _fault_of_disk(target: Path, error: OSError | RuntimeError, size: int) -> OSError | None:
    """Find what the operating system says about a failure; ``None`` if the disk is not to blame."""
    if isinstance(error, OSError):
        return error if is_of_disk(error) else None
    try:
        with TemporaryFile(dir=_nearest_folder(target)) as file:
            for _ in range(0, size, _BLOCK):
                file.write(bytes(_BLOCK))
    except OSError as fault:
        return fault
    return None


def _nearest_folder(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.is_dir())
