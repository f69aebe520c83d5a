# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Per-category metrics and the test report built from them. Names are imported when first used."""

from typing import TYPE_CHECKING

from anomalib_grad.files.lazy import lazy_getattr

if TYPE_CHECKING:
    from .evaluator import PerCategoryEvaluator

__all__ = ["PerCategoryEvaluator"]

__getattr__ = lazy_getattr(__name__, {"PerCategoryEvaluator": "evaluator"})
