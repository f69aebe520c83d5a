# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules."""

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def step_decay_factor(epoch: int, step: int, gamma: float) -> float:
    """Factor on the learning rate in 0-based ``epoch``: ``gamma`` to the number of drops so far.

    The authors' loop steps its ``StepLR(40)`` one epoch late: with ``step`` 40 the drops fall at epochs 41, 81, ...
    """
    return gamma ** (max(epoch - 1, 0) // step)


def authors_step_decay(optimizer: Optimizer, step: int = 40, gamma: float = 0.1) -> LambdaLR:
    """Drop all learning rates by ``gamma`` every ``step`` epochs, at the epochs at which the authors' loop does."""
    return LambdaLR(optimizer, partial(step_decay_factor, step=step, gamma=gamma))
