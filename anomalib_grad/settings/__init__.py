# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a user can set: groups of constants, each documented where it stands, and how a checkpoint holds them."""

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
