# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Entry point of Lightning's ``callbacks_factory``: gives every Trainer that may test GRAD its per-category metrics."""

import sys
import warnings
from typing import TYPE_CHECKING

from .startup import disabled

if TYPE_CHECKING:
    from lightning.pytorch import Callback


def create_callbacks() -> "list[Callback]":
    """Return the callbacks that Lightning adds to a new Trainer.

    Returns:
        The per-category evaluator, which idles unless test batches name their category; nothing where anomalib's models
        are not imported, so that other users of Lightning pay nothing, or where ``ANOMALIB_GRAD_DISABLE=1`` is set.
    """
    if disabled() or "anomalib.models" not in sys.modules:
        return []
    _warn_if_unregistered()
    try:
        from anomalib_grad.evaluation import PerCategoryEvaluator  # noqa: PLC0415  # heavy

        return [PerCategoryEvaluator()]
    except Exception as fault:  # noqa: BLE001  # Lightning calls this for every model, also those that are not ours
        warnings.warn(
            f"Results will lack metrics per category ({type(fault).__name__}: {fault}); reinstall anomalib-grad.",
            RuntimeWarning,
            stacklevel=2,
        )
        return []


def _warn_if_unregistered() -> None:
    """Report a start-up hook that did not run; it stays silent at start-up, where nobody may use anomalib."""
    loaded = {"anomalib_grad.lightning_model", "_anomalib_grad_startup"} & sys.modules.keys()
    if not loaded:
        warnings.warn(
            "GRAD is installed but its start-up hook did not run, so anomalib does not know its names; "
            "reinstall anomalib-grad or call anomalib_grad.register().",
            RuntimeWarning,
            stacklevel=3,
        )
