# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD for anomalib: one anomaly-detection model for many products.

The public names are imported when first used, so that ``import anomalib_grad`` does not import torch.
"""

from typing import TYPE_CHECKING

from .files.lazy import lazy_getattr
from .plugin import former_names

if TYPE_CHECKING:
    from .data import MultiCategory
    from .lightning_model import Grad
    from .plugin import register
    from .torch_model import GradModel

__all__ = ["Grad", "GradModel", "MultiCategory", "register"]

_SUBMODULES = {
    "Grad": "lightning_model",
    "GradModel": "torch_model",
    "MultiCategory": "data",
    "register": "plugin",
}

former_names.install()

__getattr__ = lazy_getattr(__name__, _SUBMODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
