# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of features on disk: whole or not there, filled by one run at a time, bounded in size."""

import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout

from anomalib_grad.files.atomic import UNFINISHED

logger = logging.getLogger(__name__)

GIB = 2**30
SUFFIX = ".features.npy"
FINGERPRINT = re.compile("[0-9a-f]{32}")
"""Names of caches, which alone may be removed: a folder of the user's may hold other arrays."""
CHECK_BYTES = 4
"""The check sum of a file's name and of all before it ends a file: a disk, a network or a user may change either."""
CHUNK = 2**24
ADVICE = "make room, choose another cache.folder, or set feature_cache to false."


class CacheFile:
    """A file with an array of features that several runs and processes may share.

    It is filled under a temporary name, while a lock keeps other runs waiting, and renamed when it is complete. A
    killed run leaves the lock free and a temporary file that the next one overwrites.

    Args:
        folder: Folder of all caches.
        name: Fingerprint of what the features depend on.
        shape: Images and features of an image.
        dtype: ``float32`` or ``float16``.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.name = name
        self.path = folder / f"{name}{SUFFIX}"
        self.unfinished = folder / f"{name}{UNFINISHED}"
        self.shape = shape
        self.dtype = dtype
        self._lock = FileLock(folder / f"{name}.lock")

    @property
    def size(self) -> int:
        """Bytes of the features."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def read(self) -> np.ndarray | None:
        """Map the complete file; ``None`` if there is none, or something else stands in its place."""
        header = self._header()
        try:
            if not self.path.is_file() or self.path.stat().st_size != len(header) + self.size + CHECK_BYTES:
                return None
            with self.path.open("rb") as file:  # not parsed: it is known to the last byte, and a parser can be misled
                if file.read(len(header)) != header:
                    return None
            rows = self._map(self.path, "r")
        except FileNotFoundError:  # another run makes room
            return None
        with suppress(PermissionError, FileNotFoundError):
            os.utime(self.path)  # the least recently used is removed first
        return rows

    def _header(self) -> bytes:
        """NumPy's header of the array, so that ``np.load`` reads the file."""
        header, stream = np.lib.format.header_data_from_array_1_0(np.empty(0, self.dtype)), BytesIO()
        np.lib.format.write_array_header_1_0(stream, header | {"shape": self.shape})
        return stream.getvalue()

    def _map(self, path: Path, mode: Literal["r", "r+"]) -> np.memmap:
        return np.memmap(path, self.dtype, mode, len(self._header()), self.shape)

    def _is_undamaged(self) -> bool:
        computed, stored = check_sums(self.path, self.name)
        if computed != stored:
            logger.warning("The feature cache %s is damaged; its features are computed again.", self.path)
        return computed == stored

    def begin(self, limit: int) -> bool:
        """Wait for other runs that fill this file, then prepare to fill it unless they have.

        Args:
            limit: Bytes that all caches of the folder may take together; the least recently used make room.

        Returns:
            Whether it has to be filled; :meth:`finish` or :meth:`abort` must follow then.

        Raises:
            OSError: If the folder cannot be written to, or has no room.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise IsADirectoryError(f"{self.path.name} is a folder, remove it")
            remove_unfinished(self.path.parent)
            self._lock.acquire()
        except OSError as error:
            raise type(error)(f"cannot write feature caches to {self.path.parent} ({error}); {ADVICE}") from error
        try:
            if self.read() is not None and self._is_undamaged():
                self._lock.release()
                return False
            self.path.unlink(missing_ok=True)  # no other process may take it for whole
            evict_least_recent(self.path.parent, limit - self.size)
            self._allocate()
        except BaseException:
            self.abort()
            raise
        return True

    def _allocate(self) -> None:
        """Reserve the whole file at once: writing to a mapped file on a full disk would kill the process."""
        try:
            self.unfinished.unlink(missing_ok=True)  # whatever it is: a pipe would be waited for
            with self.unfinished.open("wb") as file:
                file.write(self._header())
                file.flush()
                reserve(file.fileno(), file.tell(), self.size + CHECK_BYTES)
        except OSError as error:
            free = shutil.disk_usage(self.path.parent).free
            raise OSError(
                f"the feature cache needs {self.size / GIB:.2f} GiB in {self.path.parent}, where {free / GIB:.2f} GiB "
                f"are free ({error}); {ADVICE}"
            ) from error

    def write(self, fill: Callable[[np.ndarray], None]) -> None:
        """Let ``fill`` write rows into the unfinished file."""
        rows = self._map(self.unfinished, "r+")
        fill(rows)
        rows.flush()

    def finish(self) -> None:
        """Declare the unfinished file complete."""
        computed, _ = check_sums(self.unfinished, self.name)
        with self.unfinished.open("r+b") as file:
            file.seek(-CHECK_BYTES, os.SEEK_END)
            file.write(computed)
        self.unfinished.replace(self.path)
        self._lock.release()

    def abort(self) -> None:
        """Give up filling."""
        self.unfinished.unlink(missing_ok=True)
        self._lock.release()


def check_sums(path: Path, name: str) -> tuple[bytes, bytes]:
    """Give the check sum of a cache's name and its file's content, computed, and the one that ends the file."""
    left, computed = path.stat().st_size - CHECK_BYTES, zlib.crc32(name.encode())
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            computed = zlib.crc32(chunk, computed)
            left -= len(chunk)
        return computed.to_bytes(CHECK_BYTES, "little"), file.read(CHECK_BYTES)


def reserve(descriptor: int, offset: int, size: int) -> None:
    """Make a file hold ``size`` bytes after ``offset``, on the disk and not in name only."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, size)
        return
    zeros = bytes(min(size, 2**24))
    while size > 0:
        size -= os.write(descriptor, zeros[:size])


def caches(folder: Path, suffix: str) -> Iterator[Path]:
    """Give the files of a folder that are named as caches are."""
    for path in folder.glob(f"*{suffix}"):
        if FINGERPRINT.fullmatch(path.name.removesuffix(suffix)) and path.is_file():
            yield path


def evict_least_recent(folder: Path, available: int) -> None:
    """Remove the least recently used caches of a folder until the others take no more than ``available`` bytes.

    A run that still reads a removed cache keeps it until it ends; where the system forbids removing it, it stays.
    """
    files = []
    for path in caches(folder, SUFFIX):
        with suppress(FileNotFoundError):  # another run makes room as well
            files.append((path.stat(), path))
    total = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda pair: pair[0].st_mtime):
        if total <= available:
            break
        with suppress(PermissionError, FileNotFoundError):
            path.unlink()
            total -= status.st_size


def remove_unfinished(folder: Path) -> None:
    """Remove the caches of a folder that killed runs have left unfinished: their locks are free."""
    for path in caches(folder, UNFINISHED):
        with suppress(Timeout, PermissionError), FileLock(path.with_suffix(".lock"), timeout=0):
            path.unlink(missing_ok=True)
