# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD for anomalib: one anomaly-detection model for many products.

The public names are imported when first used, so that ``import anomalib_grad`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


# Not files.lazy.lazy_getattr: programs of other models load this module at start-up, and no other of the package.
def __getattr__(name: str) -> Any:  # noqa: ANN401  # the type of whichever public name is asked for
    if name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_SUBMODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
