# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Where a feature cache stands: in memory, on disk, or nowhere."""

import logging
import shutil

import psutil

from anomalib_grad.settings import CacheSettings

from .store import ADVICE, GIB

logger = logging.getLogger(__name__)

PLACES = ("auto", "memory", "disk", True, False)
MEMORY_SHARE = 0.5
"""Share of the available memory that a cache takes without being asked to."""


def is_automatic(place: bool | str) -> bool:
    """Whether the cache decides by itself if it pays and where it stands."""
    return place in {"auto", True}


def choose_place(settings: CacheSettings, place: bool | str, size: int, processes: int) -> str | None:
    """Choose between memory and disk for a cache of ``size`` bytes; ``None`` if there is no room for it.

    By itself a cache stands in memory if that leaves enough for others, else on disk. Several processes share a
    file, while each would need a memory of its own.

    Raises:
        ValueError: If the user asked for a cache that is larger than allowed.
    """
    if size > settings.limit * GIB:
        problem = (
            f"the features take {size / GIB:.2f} GiB and cache.gib allows {settings.limit:g}: raise it, or halve them "
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
    existing = next(
        folder for folder in (settings.resolved_folder, *settings.resolved_folder.parents) if folder.exists()
    )
    free = shutil.disk_usage(existing).free
    if size <= free:
        return "disk"
    logger.warning(
        "The feature cache is off, so every epoch computes all features: %.2f GiB fit neither into memory nor "
        "into %s; %s",
        size / GIB,
        settings.resolved_folder,
        ADVICE,
    )
    return None
