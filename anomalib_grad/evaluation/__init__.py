# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Per-category metrics, thresholds and the test report."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib_grad.evaluation.evaluator import PerCategoryEvaluator
    from anomalib_grad.evaluation.html import write_html
    from anomalib_grad.evaluation.post_processor import PerCategoryPostProcessor
    from anomalib_grad.evaluation.records import CategoryRecord, CategoryResult, Example, TestReport
    from anomalib_grad.evaluation.visualizer import DistinctImageVisualizer

_MODULES = {
    "CategoryRecord": "records",
    "CategoryResult": "records",
    "DistinctImageVisualizer": "visualizer",
    "Example": "records",
    "PerCategoryEvaluator": "evaluator",
    "PerCategoryPostProcessor": "post_processor",
    "TestReport": "records",
    "write_html": "html",
}

__all__ = [
    "CategoryRecord",
    "CategoryResult",
    "DistinctImageVisualizer",
    "Example",
    "PerCategoryEvaluator",
    "PerCategoryPostProcessor",
    "TestReport",
    "write_html",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: its module may need anomalib, which takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
