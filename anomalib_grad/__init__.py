# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD for anomalib: one anomaly-detection model for many products.

The public names are imported when first used, so that ``import anomalib_grad`` costs no torch import.
"""

from typing import TYPE_CHECKING

from .files.lazy import lazily
from .plugin import former_names

if TYPE_CHECKING:
    from .data import MultiCategory
    from .lightning_model import Grad
    from .plugin import register
    from .torch_model import GradModel

__all__ = ["Grad", "GradModel", "MultiCategory", "register"]

_HOME = {
    "Grad": "lightning_model",
    "GradModel": "torch_model",
    "MultiCategory": "data",
    "register": "plugin",
}

former_names.follow()

__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
