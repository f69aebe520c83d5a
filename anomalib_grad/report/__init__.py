# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What is shown of a test: table, CSV, HTML page, heatmaps. Names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .html import write_html
    from .records import CategoryRecord, CategoryResult, Example, TestReport
    from .visualizer import DistinctImageVisualizer

__all__ = ["CategoryRecord", "CategoryResult", "DistinctImageVisualizer", "Example", "TestReport", "write_html"]

_HOME = {
    "CategoryRecord": "records",
    "CategoryResult": "records",
    "DistinctImageVisualizer": "visualizer",
    "Example": "records",
    "TestReport": "records",
    "write_html": "html",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the type of whichever public name is asked for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
