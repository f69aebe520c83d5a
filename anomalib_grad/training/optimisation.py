# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Optimiser and learning-rate schedules (method section 7)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anomalib_grad.components.head import GradHead
from anomalib_grad.settings import TrainingSettings


def build_optimizer(head: GradHead, settings: TrainingSettings, steps: Callable[[], float]) -> OptimizerLRScheduler:
    """Build AdamW with separate learning rates for networks and grids, and its schedule.

    Args:
        head: The head to train.
        settings: Settings without missing values.
        steps: Returns the number of steps of the whole training; called from the second step on, when it is known.
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


def authors_step_decay(optimizer: Optimizer, step: int = 40, gamma: float = 0.1) -> LambdaLR:
    """Multiply all learning rates by ``gamma`` every ``step`` epochs, in the same epochs as the authors' loop.

    That loop steps its ``StepLR(40)`` one epoch late: with ``step`` 40, the drops fall at 0-based epochs 41, 81, ...
    """
    return LambdaLR(optimizer, lambda epoch: gamma ** (max(epoch - 1, 0) // step))


def cosine_decay(optimizer: Optimizer, warmup: int, total: Callable[[], float]) -> LambdaLR:
    """Raise all learning rates linearly over ``warmup`` training steps, then lower them along half a cosine to 0.

    To be stepped after every batch.

    Args:
        optimizer: The optimiser.
        warmup: Steps until the full learning rates.
        total: Returns the number of steps of the whole training; called from the second step on, when it is known.
    """

    def factor(step: int) -> float:
        end = total() if step > 0 else math.inf
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(end - warmup, 1), 1.0)))

    return LambdaLR(optimizer, factor)
