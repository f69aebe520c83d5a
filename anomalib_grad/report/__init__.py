# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Test and prediction reports: table, CSV, HTML page, heatmaps. Names are imported when first used."""

from typing import TYPE_CHECKING

from anomalib_grad.files.lazy import lazy_getattr

if TYPE_CHECKING:
    from .visualizer import DistinctImageVisualizer

__all__ = ["DistinctImageVisualizer"]

__getattr__ = lazy_getattr(__name__, {"DistinctImageVisualizer": "visualizer"})
