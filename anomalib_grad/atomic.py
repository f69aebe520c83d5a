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
from tempfile import TemporaryDirectory

SUFFIX = ".unfinished"
LEFTOVER_SECONDS = 24 * 3600
"""Age at which a folder to write in belongs to no run any more: a killed one has left it."""
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
"""Errors of a medium, not of what is read or computed meanwhile."""


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
        OSError: If the target's folder cannot be written to, or is full.
    """
    target = Path(target)
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder; name a file to write.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write {target.name!r} to; create it.")
    try:
        temporary = folder_beside(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    with temporary as folder:
        unfinished = Path(folder) / target.name
        try:
            yield unfinished
            _flush(unfinished)
            unfinished.replace(target)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise _cannot_write(target, error) from error


def folder_beside(target: Path) -> "TemporaryDirectory[str]":
    """Make a folder to write ``target`` in, beside it: a file can be renamed only within its file system.

    Raises:
        OSError: If it cannot be made.
    """
    remove_leftovers(target)
    return TemporaryDirectory(prefix=f".{target.name}.", suffix=SUFFIX, dir=target.parent, ignore_cleanup_errors=True)


def remove_leftovers(target: Path) -> None:
    """Remove what runs that were killed more than a day ago left of ``target``."""
    oldest = time.time() - LEFTOVER_SECONDS
    for folder in target.parent.glob(f".{escape(target.name)}.*{SUFFIX}"):
        with suppress(FileNotFoundError):  # another run writes the same file, or removes the same folder
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder)


def _flush(path: Path) -> None:
    """Have the content on the disk before the name: after a power cut the name could stand for an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _cannot_write(target: Path, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"cannot write {str(target)!r} ({error.strerror}), and what stood there is unchanged; make room or name a "
        f"folder that can be written to, then start again.",
    )
