# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the GRAD head, one idea a file."""

from .corruption import Corruption
from .fusion import FUSIONS, Fusion
from .grid import ContinuousGrid, interpolation_weights, sample_grid
from .normal_scale import NormalScale
from .refinement import refine, similarity
from .representation import GlobalRepresentation, LocalRepresentation
from .whitening import Whitening

__all__ = [
    "FUSIONS",
    "ContinuousGrid",
    "Corruption",
    "Fusion",
    "GlobalRepresentation",
    "LocalRepresentation",
    "NormalScale",
    "Whitening",
    "interpolation_weights",
    "refine",
    "sample_grid",
    "similarity",
]
