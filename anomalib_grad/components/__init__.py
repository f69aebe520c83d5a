# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of the GRAD head, one idea per file."""

from .corruption import Corruption
from .head import GradHead, refine, similarity
from .normal_scale import NormalScale
from .representation import (
    FUSIONS,
    ContinuousGrid,
    Fusion,
    GlobalRepresentation,
    LocalRepresentation,
    interpolation_weights,
    sample_grid,
)
from .whitening import Whitening

__all__ = [
    "FUSIONS",
    "ContinuousGrid",
    "Corruption",
    "Fusion",
    "GlobalRepresentation",
    "GradHead",
    "LocalRepresentation",
    "NormalScale",
    "Whitening",
    "interpolation_weights",
    "refine",
    "sample_grid",
    "similarity",
]
