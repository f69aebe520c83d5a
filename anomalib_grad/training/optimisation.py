# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How Grad is optimised: the loss, and what lowers it (method section 7)."""

import math
from dataclasses import fields

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from anomalib_grad.settings import TrainingSettings
from anomalib_grad.torch_model import GradModel

from .length import find_timer
from .pasting import hard_mean, paste_patches
from .schedule import authors_step_decay, cosine_decay


class OptimisationMixin(pl.LightningModule):
    """Loss, optimiser, learning rates and clipping of a module with a :class:`~anomalib_grad.torch_model.GradModel`."""

    model: GradModel
    learning_rate: float
    grid_learning_rate: float
    weight_decay: float
    lr_schedule: str
    lr_step: int
    lr_gamma: float
    warmup_steps: int
    clip_norm: float
    pasted_patches: int
    channel_dropout: float
    hard_mining: bool

    def set_training(self, settings: TrainingSettings) -> None:
        """Take settings that are complete; each becomes an attribute, where Lightning's tuners look for them."""
        for part in fields(settings):
            setattr(self, part.name, getattr(settings, part.name))

    def training_loss(self, features: Tensor) -> Tensor:
        """Compare features ``(B, C, h, w)`` with their refinement: ``MSE(x_hat, x)``, the mean over all elements.

        With ``pasted_patches`` or ``channel_dropout``, what is normal is made of features of which parts are covered or
        missing, and refines the whole ones. With ``hard_mining``, the mean over cells is
        :func:`~anomalib_grad.training.pasting.hard_mean`.
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
        """Number of steps of the whole training; where time ends it, as many as there will be at the pace so far.

        Raises:
            ValueError: If it has no end that is known.
        """
        total = float(self.trainer.estimated_stepping_batches)
        timer = find_timer(self.trainer)
        remaining = None if timer is None else timer.time_remaining()
        if timer is not None and remaining is not None:
            elapsed = timer.time_elapsed()
            total = min(total, self.trainer.global_step * (1 + max(remaining, 0) / max(elapsed, 1e-3)))
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
