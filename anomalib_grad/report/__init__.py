# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Test and prediction reports: table, CSV, HTML page, heatmaps. Names are imported when first used."""

from typing import TYPE_CHECKING

from anomalib_grad.files.lazy import lazy_getattr

if TYPE_CHECKING:
    from .html import write_html
    from .records import CategoryRecord, CategoryResult, Example, TestReport
    from .visualizer import DistinctImageVisualizer

__all__ = ["CategoryRecord", "CategoryResult", "DistinctImageVisualizer", "Example", "TestReport", "write_html"]

_SUBMODULES = {
    "CategoryRecord": "records",
    "CategoryResult": "records",
    "DistinctImageVisualizer": "visualizer",
    "Example": "records",
    "TestReport": "records",
    "write_html": "html",
}

__getattr__ = lazy_getattr(__name__, _SUBMODULES)
