# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Exports, and inference with them without torch. Names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inferencer import CategoryOpenVINOInferencer, read_categories, read_model
    from .stream import FrameResult

__all__ = ["CategoryOpenVINOInferencer", "FrameResult", "read_categories", "read_model"]

_HOME = {
    "CategoryOpenVINOInferencer": "inferencer",
    "FrameResult": "stream",
    "read_categories": "inferencer",
    "read_model": "inferencer",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the type of whichever public name is asked for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
