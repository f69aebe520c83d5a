# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Model export, and inference with exported models in OpenVINO. Names are imported when first used."""

from typing import TYPE_CHECKING

from anomalib_grad.files.lazy import lazy_getattr

if TYPE_CHECKING:
    from .inferencer import CategoryOpenVINOInferencer, read_categories, read_model
    from .stream import FrameResult

__all__ = ["CategoryOpenVINOInferencer", "FrameResult", "read_categories", "read_model"]

_SUBMODULES = dict.fromkeys(__all__, "inferencer") | {"FrameResult": "stream"}

__getattr__ = lazy_getattr(__name__, _SUBMODULES)
