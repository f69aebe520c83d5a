# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Where normal ends: thresholds and normalisation of scores, product by product."""

from .post_processor import PerCategoryPostProcessor

__all__ = ["PerCategoryPostProcessor"]
