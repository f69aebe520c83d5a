# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of a trained model, seen and changed at the line; ``python -m anomalib_grad.thresholds`` is its command.

Names are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .change import Correction, correct, fit, read_thresholds, set_threshold
    from .corrections import Verdicts

__all__ = ["Correction", "Verdicts", "correct", "fit", "read_thresholds", "set_threshold"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the type of whichever public name is asked for
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".corrections" if name == "Verdicts" else ".change", __name__), name)
