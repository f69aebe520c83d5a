# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What the user wants of the feature cache, and where it therefore stands."""

import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

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


class CacheSettings(NamedTuple):
    """The cache arguments of :class:`~anomalib_grad.Grad`, which explains them."""

    place: bool | str = "auto"
    dtype: str = "float32"
    gib: float = 8.0
    folder: str | Path | None = None

    def checked(self) -> "CacheSettings":
        """Give the settings back.

        Raises:
            ValueError: If one of them is impossible.
        """
        if self.place not in PLACES:
            raise ValueError(f"feature_cache must be 'auto', 'memory', 'disk' or false, got {self.place!r}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"feature_cache_dtype must be {' or '.join(DTYPES)}, got {self.dtype!r}.")
        if not self.gib > 0:
            raise ValueError(f"feature_cache_gib must be more than 0, got {self.gib}.")
        return self

    @property
    def automatic(self) -> bool:
        """Whether the cache decides by itself if it pays and where it stands."""
        return self.place in {"auto", True}

    @property
    def resolved_folder(self) -> Path:
        """Folder of the caches on disk."""
        return default_folder() if self.folder is None else Path(self.folder)

    def choose_place(self, size: int, processes: int) -> str | None:
        """Choose between memory and disk for a cache of ``size`` bytes; ``None`` if there is no room for it.

        By itself a cache stands in memory if that leaves enough for others, else on disk. Several processes share a
        file, while each would need a memory of its own.

        Raises:
            ValueError: If the user asked for a cache that is larger than allowed.
        """
        if size > self.gib * GIB:
            problem = (
                f"the features take {size / GIB:.2f} GiB and feature_cache_gib allows {self.gib:g}: raise it, or halve "
                f"them with feature_cache_dtype float16"
            )
            if not self.automatic:
                raise ValueError(f"{problem}, or set feature_cache to false.")
            logger.warning("The feature cache is off, so every epoch computes all features again; %s.", problem)
            return None
        if not self.automatic:
            return str(self.place)
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
