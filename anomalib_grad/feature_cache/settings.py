# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What the user wants of the feature cache, and where it therefore stands."""

import logging
import os
import shutil
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import psutil

from .store import ADVICE, GIB

logger = logging.getLogger(__name__)

PLACES = ("auto", "memory", "disk", True, False)
DTYPES = ("float32", "float16")
MEMORY_SHARE = 0.5
"""Share of the available memory that a cache takes without being asked to."""


def default_folder() -> Path:
    """Folder of the caches: ``anomalib_grad/features`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomalib_grad" / "features"


def check_place(place: object) -> None:
    """Refuse a ``feature_cache`` that is none.

    Raises:
        ValueError: Says what is possible.
    """
    if place not in PLACES:
        raise ValueError(f"feature_cache must be 'auto', 'memory', 'disk' or false, got {place!r}.")


def is_automatic(place: bool | str) -> bool:
    """Whether the cache decides by itself if it pays and where it stands."""
    return place in {"auto", True}


@dataclass(frozen=True)
class CacheSettings:
    """How backbone features are kept.

    Args:
        dtype: ``float32``, or ``float16`` for half the size and features rounded to 3 digits.
        gib: Largest size of the cache in GiB; on disk of all caches in the folder, of which the least recently used are
            removed.
        folder: Folder of caches on disk; default: ``~/.cache/anomalib_grad/features``. A checkpoint's is not followed.
    """

    dtype: str | None = None
    gib: float | None = None
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range, naming it."""
        if self.dtype not in {None, *DTYPES}:
            raise ValueError(f"cache.dtype must be {' or '.join(DTYPES)}, got {self.dtype!r}.")
        if self.gib is not None and not (isinstance(self.gib, Real) and self.gib > 0):
            raise ValueError(f"cache.gib must be more than 0, got {self.gib!r}.")

    @property
    def limit(self) -> float:
        """Largest size in GiB."""
        return 8.0 if self.gib is None else self.gib

    @property
    def resolved_folder(self) -> Path:
        """Folder of the caches on disk."""
        return default_folder() if self.folder is None else Path(self.folder)

    def choose_place(self, place: bool | str, size: int, processes: int) -> str | None:
        """Choose between memory and disk for a cache of ``size`` bytes; ``None`` if there is no room for it.

        By itself a cache stands in memory if that leaves enough for others, else on disk. Several processes share a
        file, while each would need a memory of its own.

        Raises:
            ValueError: If the user asked for a cache that is larger than allowed.
        """
        if size > self.limit * GIB:
            problem = (
                f"the features take {size / GIB:.2f} GiB and cache.gib allows {self.limit:g}: raise it, or halve them "
                f"with cache.dtype float16"
            )
            if not is_automatic(place):
                raise ValueError(f"{problem}, or set feature_cache to false.")
            logger.warning("The feature cache is off, so every epoch computes all features again; %s.", problem)
            return None
        if not is_automatic(place):
            return str(place)
        if processes > 1:
            return "disk"
        if size <= MEMORY_SHARE * psutil.virtual_memory().available:
            return "memory"
        existing = next(folder for folder in (self.resolved_folder, *self.resolved_folder.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if size <= free:
            return "disk"
        logger.warning(
            "The feature cache is off, so every epoch computes all features: %.2f GiB fit neither into memory nor "
            "into %s; %s",
            size / GIB,
            self.resolved_folder,
            ADVICE,
        )
        return None
