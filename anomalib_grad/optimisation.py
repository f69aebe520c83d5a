# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How Grad is optimised: the loss, and what lowers it (method section 7)."""

import math
from numbers import Integral, Real

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from .pasting import hard_mean, paste_patches
from .schedule import SCHEDULES, authors_step_decay, cosine_decay
from .torch_model import GradModel


class OptimisationMixin(pl.LightningModule):
    """Loss, optimiser, learning rates and clipping of a module with a :class:`~anomalib_grad.torch_model.GradModel`."""

    model: GradModel

    def set_training(
        self,
        *,
        learning_rate: float,
        grid_learning_rate: float,
        weight_decay: float,
        lr_schedule: str,
        lr_step: int,
        lr_gamma: float,
        warmup_steps: int,
        clip_norm: float,
        pasted_patches: int,
        channel_dropout: float,
        hard_mining: bool,
        max_epochs: int,
    ) -> None:
        """Take the training arguments of :class:`~anomalib_grad.Grad`, which explains them.

        Raises:
            ValueError: If one is out of range; names it.
        """
        if lr_schedule not in SCHEDULES:
            raise ValueError(f"lr_schedule must be {' or '.join(SCHEDULES)}, got {lr_schedule!r}.")
        check_positive(learning_rate=learning_rate, grid_learning_rate=grid_learning_rate, lr_gamma=lr_gamma)
        check_not_negative(weight_decay=weight_decay, warmup_steps=warmup_steps, clip_norm=clip_norm)
        check_counts(1, lr_step=lr_step, max_epochs=max_epochs)
        check_counts(0, pasted_patches=pasted_patches)
        if not (is_number(channel_dropout) and 0 <= channel_dropout < 1):
            raise ValueError(f"channel_dropout must be at least 0 and less than 1, got {channel_dropout!r}.")
        if not isinstance(hard_mining, bool):
            message = f"hard_mining must be True or False, got {hard_mining!r}."
            raise ValueError(message)  # noqa: TRY004  # the error of all arguments out of range
        self.learning_rate = learning_rate
        self.grid_learning_rate = grid_learning_rate
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.lr_step = lr_step
        self.lr_gamma = lr_gamma
        self.warmup_steps = warmup_steps
        self.clip_norm = clip_norm
        self.pasted_patches = pasted_patches
        self.channel_dropout = channel_dropout
        self.hard_mining = hard_mining
        self.max_epochs = max_epochs

    def training_loss(self, features: Tensor) -> Tensor:
        """Compare features ``(B, C, h, w)`` with their refinement: ``MSE(x_hat, x)``, the mean over all elements.

        With ``pasted_patches`` or ``channel_dropout``, what is normal is made of features of which parts are covered or
        missing, and refines the whole ones. With ``hard_mining``, the mean over cells is
        :func:`~anomalib_grad.pasting.hard_mean`.
        """
        seen = paste_patches(features, self.pasted_patches) if self.pasted_patches else features
        seen = functional.dropout2d(seen, self.channel_dropout) if self.channel_dropout else seen
        refined = self.model.head.refine(features, self.model.head.normal(seen)).refined
        if self.hard_mining:
            return hard_mean((refined - features).square().mean(dim=1))
        return functional.mse_loss(refined, features)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a rate for the networks and one for the grids, lowered by a schedule (method section 7)."""
        optimizer = torch.optim.AdamW(
            [
                {"params": self.model.head.network_parameters(), "lr": self.learning_rate},
                {"params": self.model.head.grid_parameters(), "lr": self.grid_learning_rate},
            ],
            weight_decay=self.weight_decay,
        )
        if self.lr_schedule == "step":
            return {"optimizer": optimizer, "lr_scheduler": authors_step_decay(optimizer, self.lr_step, self.lr_gamma)}
        cosine = cosine_decay(optimizer, self.warmup_steps, self._training_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def _training_steps(self) -> float:
        """Number of steps of the whole training.

        Raises:
            ValueError: If it has no end that is known.
        """
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ValueError("lr_schedule='cosine' has to know the end of training: set max_epochs or max_steps.")
        return total

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer was told to, and as the authors do if it was not."""
        if gradient_clip_val is None:
            gradient_clip_val = self.clip_norm
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm or "norm")


def is_number(value: object, kind: type = Real) -> bool:
    """Tell whether a setting is a number, Python's or NumPy's."""
    return isinstance(value, kind)


def check_positive(**settings: float) -> None:
    """Refuse settings that are not above 0, or infinite."""
    for name, value in settings.items():
        if not (is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name} must be more than 0 and finite, got {value!r}.")


def check_not_negative(**settings: float) -> None:
    """Refuse settings below 0, or infinite."""
    for name, value in settings.items():
        if not (is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} must be 0 or more and finite, got {value!r}.")


def check_counts(least: int, **settings: int) -> None:
    """Refuse settings that are no whole numbers of at least ``least``."""
    for name, value in settings.items():
        if not (is_number(value, Integral) and value >= least):
            raise ValueError(f"{name} must be at least {least}, a whole number, got {value!r}.")
