# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Threshold adjustment of a trained model where it is used; ``python -m anomalib_grad.thresholds`` is its command line.

Names are imported when first used.
"""

from typing import TYPE_CHECKING

from anomalib_grad.files.lazy import lazy_getattr

if TYPE_CHECKING:
    from .change import Correction, correct, fit, read_thresholds, set_threshold
    from .verdicts import Verdicts

__all__ = ["Correction", "Verdicts", "correct", "fit", "read_thresholds", "set_threshold"]

_SUBMODULES = dict.fromkeys(__all__, "change") | {"Verdicts": "verdicts"}

__getattr__ = lazy_getattr(__name__, _SUBMODULES)
