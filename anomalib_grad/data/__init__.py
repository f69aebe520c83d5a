# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Data: one datamodule over many categories. Names are imported when first used."""

from typing import TYPE_CHECKING

from anomalib_grad.files.lazy import lazy_getattr

if TYPE_CHECKING:
    from anomalib_grad.data.textures.datamodule import Textures

    from .dataclasses import CategoryImageBatch, CategoryImageItem
    from .listing import list_images
    from .multi_category import MultiCategory
    from .prediction import PredictImages

__all__ = ["CategoryImageBatch", "CategoryImageItem", "MultiCategory", "PredictImages", "Textures", "list_images"]

__getattr__ = lazy_getattr(
    __name__,
    {
        "CategoryImageBatch": "dataclasses",
        "CategoryImageItem": "dataclasses",
        "MultiCategory": "multi_category",
        "PredictImages": "prediction",
        "Textures": "textures",
        "list_images": "listing",
    },
)
