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
"""Age after which a temporary folder counts as the leftover of a killed run."""
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
"""Error numbers that blame the disk, not what is read or computed while writing."""
_BLOCK = 2**20
"""Bytes per write when testing whether a disk is full."""


class CannotWriteError(OSError):
    """A write failed because a disk is full or must not be written to."""


@contextmanager
def writing(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path whose file becomes ``target`` when the block ends without an error.

    Neither a kill nor a power cut leaves half a file under the final name. Leftovers of killed runs beside the target
    are removed after a day.

    Args:
        target: The file to write. An existing file stays unchanged until the block ends.

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
    with explain_write_errors(target), folder_beside(target) as folder:
        unfinished = Path(folder) / target.name
        yield unfinished
        with unfinished.open("rb+") as file:  # flush before renaming: a power cut must not leave an empty file
            os.fsync(file.fileno())
        unfinished.replace(target)


def write_text(target: Path, text: str, errors: str | None = None) -> None:
    """Write a whole text file or nothing, creating its folder if missing; ``errors`` is that of the encoding."""
    make_folder(target.parent)
    with writing(target) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors=errors)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents unless they exist.

    Raises:
        CannotWriteError: If that is impossible, for example because a file has the folder's name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextmanager
def explain_write_errors(target: Path, size: int = 0) -> Iterator[None]:
    """Name the target, and what to do, if the block fails because a disk is full or must not be written to.

    Args:
        target: The file or folder that the block writes.
        size: Bytes that the block writes, to test the disk with, as some libraries' errors do not blame it.

    Raises:
        CannotWriteError: In place of the original error, which becomes its cause.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        fault = _find_disk_error(target, error, size)
        if fault is None:
            raise
        raise cannot_write(target, fault) from error


@contextmanager
def explain_temporary_folder_errors() -> Iterator[None]:
    """Name the temporary folder in a block's write errors, where the user chose none of the places written to.

    Raises:
        CannotWriteError: In place of the original one, which becomes its cause.
    """
    try:
        yield
    except CannotWriteError as error:
        number = error.errno or errno.EIO
        advice = "make room there, or set TMPDIR to a folder on a disk with free space"
        if number == errno.EFBIG:
            advice = "allow larger files (ulimit -f), or set TMPDIR to a folder on a disk that allows them"
        raise CannotWriteError(
            number,
            f"cannot write to {gettempdir()!r}, the folder for temporary files ({os.strerror(number)}); {advice}, then "
            "start again.",
        ) from error


def folder_beside(target: Path) -> "TemporaryDirectory[str]":
    """Create a temporary folder beside ``target`` to write it in, as renaming needs a single file system.

    Leftovers of ``target`` from runs that were killed more than a day ago are removed.

    Raises:
        OSError: If it cannot be created.
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
    """Build an error that says what could not be written, why, and what to do.

    ``setting`` is the name of the setting that chooses the folder.
    """
    return CannotWriteError(
        error.errno,
        f"cannot write {str(target)!r} ({error.strerror}); anything that was there before is unchanged. Make room, or "
        f"choose a writable folder{f' ({setting})' if setting else ''}, then start again.",
    )


def is_disk_error(error: BaseException) -> bool:
    """Tell whether an error blames the disk that is written to, or its folder's permissions."""
    if not isinstance(error, OSError) or isinstance(error, CannotWriteError):  # already named
        return False
    if error.errno in {errno.EACCES, errno.EPERM} and isinstance(error.filename, str | os.PathLike):
        return not os.access(nearest_folder(Path(error.filename)), os.W_OK)  # otherwise reading failed
    return error.errno in UNWRITABLE


def _find_disk_error(target: Path, error: OSError | RuntimeError, size: int) -> OSError | None:
    """Return the operating system's error behind a failure, or ``None`` if the disk is not to blame."""
    if isinstance(error, OSError):
        return error if is_disk_error(error) else None
    try:
        with TemporaryFile(dir=nearest_folder(target)) as file:
            for _ in range(0, size, _BLOCK):
                file.write(bytes(_BLOCK))
    except OSError as fault:
        return fault
    return None


def nearest_folder(path: Path) -> Path:
    """Return the lowest folder above a path that exists."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())
