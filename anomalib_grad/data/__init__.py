# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Data: one datamodule over many categories. Names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomalib_grad.data.textures.datamodule import Textures

    from .dataclasses import CategoryImageBatch, CategoryImageItem
    from .listing import list_images
    from .multi_category import MultiCategory
    from .prediction import PredictImages

__all__ = ["CategoryImageBatch", "CategoryImageItem", "MultiCategory", "PredictImages", "Textures", "list_images"]

_HOME = {
    "CategoryImageBatch": "dataclasses",
    "CategoryImageItem": "dataclasses",
    "MultiCategory": "multi_category",
    "PredictImages": "prediction",
    "Textures": "textures",
    "list_images": "listing",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the type of whichever public name is asked for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
