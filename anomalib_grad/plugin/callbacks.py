# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Entry point for Lightning's ``callbacks_factory``: adds per-category metrics to every Trainer that may test GRAD."""

import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback

USERS = {"anomalib_grad.data", "anomalib_grad.lightning_model"}  # loaded by registration as well


def create_callbacks() -> "list[Callback]":
    """Return the callbacks that Lightning adds to a new Trainer.

    Returns:
        The per-category evaluator, which idles unless test batches name their category. Empty if neither anomalib nor
        this package is in use, so that other users of Lightning pay nothing.
    """
    if not USERS & sys.modules.keys():
        _warn_if_hook_did_not_run()
        return []
    try:
        from anomalib_grad.evaluation import PerCategoryEvaluator  # noqa: PLC0415  # heavy

        return [PerCategoryEvaluator()]
    except Exception as fault:  # noqa: BLE001  # Lightning calls this for every model, also those that are not ours
        warnings.warn(
            f"Results will lack metrics per category ({type(fault).__name__}: {fault}). Reinstall anomalib-grad.",
            RuntimeWarning,
            stacklevel=2,
        )
        return []


def _warn_if_hook_did_not_run() -> None:
    """Warn of a damaged start-up hook, which stays silent at start-up for the sake of programs without anomalib."""
    hook_ran = "_anomalib_grad_startup" in sys.modules
    if "anomalib.models" in sys.modules and not hook_ran and "ANOMALIB_GRAD_DISABLE" not in os.environ:
        warnings.warn(
            "anomalib-grad is installed but its start-up hook did not run, so anomalib does not know the name Grad. "
            "Reinstall anomalib-grad or call anomalib_grad.register().",
            RuntimeWarning,
            stacklevel=3,
        )
