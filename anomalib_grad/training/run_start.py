# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Setup before the first training batch: backbone weights, training length and random state."""

from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor

from anomalib_grad.files.configuration import restoring
from anomalib_grad.settings import Settings
from anomalib_grad.torch_model import network_of

from .extension import products_of
from .length import OwnLength

RANDOM_STATE = "grad_random_state"
"""Checkpoint key of the random state."""


class PrepareTraining(Callback):
    """Prepares a training; one that resumes draws the random numbers that the interrupted one would have drawn."""

    def __init__(self) -> None:
        self._random_state: Tensor | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the random state."""
        checkpoint[RANDOM_STATE] = torch.get_rng_state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the random state, which is restored when the fit starts."""
        self._random_state = checkpoint.get(RANDOM_STATE)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the backbone's weights first, so that missing weights fail at once, then set length and random state.

        Raises:
            BackboneWeightsError: If the weights are not available.
            CheckpointConfigurationError: If the checkpoint's random state is invalid.
            ValueError: If a callback averages more than weights, or the strategy's processes would not return the names
                of products.
        """
        if products_of(trainer) and isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ValueError(
                "this strategy trains in processes that return only weights, so that the names of products would be "
                "lost: use strategy='ddp' in a script, or devices=1."
            )
        averaging = next((callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)), None)  # type: ignore[attr-defined]
        if averaging is not None:
            raise ValueError(
                f"{type(averaging).__name__} cannot average Grad: it would average thresholds and statistics of "
                f"products like weights; use StochasticWeightAveraging instead."
            )
        network_of(pl_module).backbone.ensure_weights()
        pl_module.train()  # Lightning keeps the mode, and exports leave the model in eval mode
        settings = cast("Settings", pl_module.settings)  # the checkpoint's when resuming
        cast("OwnLength", pl_module.own_length).settle(trainer, settings.training)
        if trainer.ckpt_path is not None and self._random_state is not None:
            with restoring(f"{RANDOM_STATE!r}"):
                torch.set_rng_state(self._random_state.cpu())
