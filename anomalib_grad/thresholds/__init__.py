# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds and score normalisation per category."""

from .post_processor import PerCategoryPostProcessor

__all__ = ["PerCategoryPostProcessor"]
