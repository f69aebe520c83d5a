# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def authors_step_decay(optimizer: Optimizer, step: int = 40, gamma: float = 0.1) -> LambdaLR:
    """Drop all learning rates by ``gamma`` every ``step`` epochs, at the epochs at which the authors' loop does.

    That steps its ``StepLR(40)`` one epoch late: with ``step`` 40 the drops fall at 0-based epochs 41, 81, ...
    """
    return LambdaLR(optimizer, lambda epoch: gamma ** (max(epoch - 1, 0) // step))


def cosine_factor(step: int, warmup: int, total: float) -> float:
    """Factor on the learning rate in 0-based training ``step``.

    It rises linearly over ``warmup`` steps and falls along half a cosine to 0 at ``total`` steps.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(total - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def cosine_decay(optimizer: Optimizer, warmup: int, total: Callable[[], float]) -> LambdaLR:
    """Raise all learning rates over ``warmup`` training steps, then lower them to 0. To be stepped after every batch.

    Args:
        optimizer: The optimiser.
        warmup: Steps until the full learning rates.
        total: Tells the number of steps of the whole training; asked from the second step on, when it is known.
    """
    return LambdaLR(optimizer, lambda step: 1 / (warmup + 1) if step == 0 else cosine_factor(step, warmup, total()))
