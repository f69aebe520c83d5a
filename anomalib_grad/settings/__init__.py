# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""User settings: groups of constants, each documented in its class, and their form in a checkpoint."""

from .groups import (
    BOTH_LAYERS,
    GROUPS,
    CacheSettings,
    MapSettings,
    MethodSettings,
    Settings,
    TrainingSettings,
    filled,
    group_of,
)

__all__ = [
    "BOTH_LAYERS",
    "GROUPS",
    "CacheSettings",
    "MapSettings",
    "MethodSettings",
    "Settings",
    "TrainingSettings",
    "filled",
    "group_of",
]
