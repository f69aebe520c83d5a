# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What lowers the loss, and at which rates (method section 7)."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from anomalib_grad.components.head import GradHead
from anomalib_grad.settings import TrainingSettings

from .schedule import authors_step_decay, cosine_decay


def build_optimizer(head: GradHead, settings: TrainingSettings, steps: Callable[[], float]) -> OptimizerLRScheduler:
    """AdamW with a rate for the networks and one for the grids, lowered by a schedule.

    Args:
        head: What is trained.
        settings: Complete ones.
        steps: Tells the number of steps of the whole training; asked from the second step on, when it is known.
    """
    complete: Any = settings
    optimizer = torch.optim.AdamW(
        [
            {"params": head.network_parameters(), "lr": complete.learning_rate},
            {"params": head.grid_parameters(), "lr": complete.grid_learning_rate},
        ],
        weight_decay=complete.weight_decay,
    )
    if complete.lr_schedule == "step":
        decay = authors_step_decay(optimizer, complete.lr_step, complete.lr_gamma)
        return {"optimizer": optimizer, "lr_scheduler": decay}
    cosine = cosine_decay(optimizer, complete.warmup_steps, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
