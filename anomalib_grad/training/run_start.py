# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a training settles before its first batch is drawn: weights, length and random numbers."""

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
"""Where a checkpoint notes how far the random numbers have been drawn."""


class SettleStart(Callback):
    """Settles it; a training that goes on draws the random numbers that the interrupted one would have drawn."""

    def __init__(self) -> None:
        self._random_state: Tensor | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note where the random numbers stand."""
        checkpoint[RANDOM_STATE] = torch.get_rng_state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember where they stood."""
        self._random_state = checkpoint.get(RANDOM_STATE)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the weights before anything is computed: a machine that cannot have them says so at once.

        Raises:
            BackboneWeightsError: If they cannot be had.
            CheckpointConfigurationError: If the checkpoint to go on from notes no state of random numbers.
            ValueError: If a callback averages more than weights, or a process takes the names of products with it.
        """
        if products_of(trainer) and isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ValueError(
                "this strategy trains in processes that give nothing but weights back, and a model of several products "
                "knows their names as well: take strategy='ddp', in a script, or devices=1."
            )
        averaging = next((callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)), None)  # type: ignore[attr-defined]
        if averaging is not None:
            raise ValueError(
                f"{type(averaging).__name__} cannot average Grad: it takes thresholds and what is known of products "
                f"for weights; give StochasticWeightAveraging in its place."
            )
        network_of(pl_module).backbone.ensure_weights()
        pl_module.train()  # whatever it was left in: an export ends in eval mode, and Lightning would train in that
        settings = cast("Settings", pl_module.settings)  # those of a checkpoint where one is gone on from
        cast("OwnLength", pl_module.own_length).settle(trainer, settings.training)
        if trainer.ckpt_path is not None and self._random_state is not None:
            with restoring(f"{RANDOM_STATE!r}"):
                torch.set_rng_state(self._random_state.cpu())
