# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Feature cache on disk: its files are complete or absent, filled by one run at a time, and bounded in size."""

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
from anomalib_grad.files.refusals import message

logger = logging.getLogger(__name__)

GIB = 2**30
SUFFIX = ".features.npy"
FINGERPRINT = re.compile("[0-9a-f]{32}")
"""Pattern of cache names. Only such files may be removed: a folder of the user's may hold other arrays."""
CHECK_BYTES = 4
"""Size of the checksum at the end of a file, over its name and content, which a disk, network or user may change."""
CHUNK = 2**24
ADVICE = "make room, choose another cache.folder, or set feature_cache to false"


class CacheFile:
    """A file with an array of features that several runs and processes may share.

    It is filled under a temporary name, while a lock makes other runs wait, and renamed when it is complete. A killed
    run leaves the lock free and a temporary file, which the next run overwrites.

    Args:
        folder: Folder of all caches.
        name: Fingerprint of what the features depend on.
        shape: Number of images, and of features per image.
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
        """Size of the features in bytes."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def read(self) -> np.ndarray | None:
        """Map the complete file into memory; ``None`` if there is no such file, or it is not such a cache."""
        header = self._header()
        try:
            if not self.path.is_file() or self.path.stat().st_size != len(header) + self.size + CHECK_BYTES:
                return None
            with self.path.open("rb") as file:  # compared, not parsed: all bytes are known, and parsers can be misled
                if file.read(len(header)) != header:
                    return None
            rows = self._map(self.path, "r")
        except FileNotFoundError:  # removed by another run to make room
            return None
        with suppress(PermissionError, FileNotFoundError):
            os.utime(self.path)  # the least recently used is removed first
        return rows

    def _header(self) -> bytes:
        """Return NumPy's header of the array, so that ``np.load`` can read the file."""
        header, stream = np.lib.format.header_data_from_array_1_0(np.empty(0, self.dtype)), BytesIO()
        np.lib.format.write_array_header_1_0(stream, header | {"shape": self.shape})
        return stream.getvalue()

    def _map(self, path: Path, mode: Literal["r", "r+"]) -> np.memmap:
        return np.memmap(path, self.dtype, mode, len(self._header()), self.shape)

    def _is_undamaged(self) -> bool:
        computed, stored = check_sums(self.path, self.name)
        if computed != stored:
            logger.warning("The feature cache %s is damaged, so its features are computed again.", self.path)
        return computed == stored

    def begin(self, limit: int) -> bool:
        """Wait for other runs that fill this file, then prepare to fill it if they have not.

        Args:
            limit: Largest size in bytes of all caches in the folder together; the least recently used are removed.

        Returns:
            Whether it has to be filled; if so, :meth:`finish` or :meth:`abort` must follow.

        Raises:
            OSError: If the folder cannot be written to, or has no room.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise IsADirectoryError(f"{self.path.name} is a folder; remove it")
            remove_unfinished(self.path.parent)
            self._lock.acquire()
        except OSError as error:
            raise type(error)(
                f"cannot write feature caches to {self.path.parent} ({message(error)}); {ADVICE}."
            ) from error
        try:
            if self.read() is not None and self._is_undamaged():
                self._lock.release()
                return False
            self.path.unlink(missing_ok=True)  # no other process may take it for complete
            evict_least_recent(self.path.parent, limit - self.size)
            self._allocate()
        except BaseException:
            self.abort()
            raise
        return True

    def _allocate(self) -> None:
        """Reserve the whole file at once: writing to a mapped file on a full disk would kill the process."""
        try:
            self.unfinished.unlink(missing_ok=True)  # of any kind: opening a pipe would block
            with self.unfinished.open("wb") as file:
                file.write(self._header())
                file.flush()
                reserve(file.fileno(), file.tell(), self.size + CHECK_BYTES)
        except OSError as error:
            free = shutil.disk_usage(self.path.parent).free
            raise OSError(
                f"the feature cache needs {self.size / GIB:.3g} GiB in {self.path.parent}, where {free / GIB:.3g} GiB "
                f"are free ({message(error)}); {ADVICE}."
            ) from error

    def write(self, fill: Callable[[np.ndarray], None]) -> None:
        """Let ``fill`` write rows into the unfinished file."""
        rows = self._map(self.unfinished, "r+")
        fill(rows)
        rows.flush()

    def finish(self) -> None:
        """Write the checksum of the unfinished file and give it its final name."""
        computed, _ = check_sums(self.unfinished, self.name)
        with self.unfinished.open("r+b") as file:
            file.seek(-CHECK_BYTES, os.SEEK_END)
            file.write(computed)
        self.unfinished.replace(self.path)
        self._lock.release()

    def abort(self) -> None:
        """Remove the unfinished file and release the lock."""
        self.unfinished.unlink(missing_ok=True)
        self._lock.release()


def check_sums(path: Path, name: str) -> tuple[bytes, bytes]:
    """Return the checksum of a cache's name and its file's content, as computed and as stored at the file's end."""
    left, computed = path.stat().st_size - CHECK_BYTES, zlib.crc32(name.encode())
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            computed = zlib.crc32(chunk, computed)
            left -= len(chunk)
        return computed.to_bytes(CHECK_BYTES, "little"), file.read(CHECK_BYTES)


def reserve(descriptor: int, offset: int, size: int) -> None:
    """Allocate ``size`` bytes after ``offset`` of a file on the disk, not only in its nominal size."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, size)
        return
    zeros = bytes(min(size, CHUNK))
    while size > 0:
        size -= os.write(descriptor, zeros[:size])


def caches(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files of a folder that are named like caches."""
    for path in folder.glob(f"*{suffix}"):
        if FINGERPRINT.fullmatch(path.name.removesuffix(suffix)) and path.is_file():
            yield path


def evict_least_recent(folder: Path, available: int) -> None:
    """Remove the least recently used caches of a folder until the others take at most ``available`` bytes.

    A run that reads a removed cache keeps it until the run ends. If the system forbids removing an open file, it stays.
    """
    files = []
    for path in caches(folder, SUFFIX):
        with suppress(FileNotFoundError):  # another run may be making room as well
            files.append((path.stat(), path))
    total = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda pair: pair[0].st_mtime):
        if total <= available:
            break
        with suppress(PermissionError, FileNotFoundError):
            path.unlink()
            total -= status.st_size


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished caches of killed runs from a folder: their locks are free."""
    for path in caches(folder, UNFINISHED):
        with suppress(Timeout, PermissionError), FileLock(path.with_suffix(".lock"), timeout=0):
            path.unlink(missing_ok=True)
