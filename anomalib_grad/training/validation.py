# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Validation schedule: once, at the end of training, unless the user or a callback needs more.

Validation fits thresholds and ranges, which nothing reads before training ends.
"""

import sys
from abc import ABC, abstractmethod
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from anomalib_grad.settings import Settings

NOW, NOT_NOW = 1, sys.maxsize
"""Values of Lightning's ``val_check_batch``: validate after this batch, or never."""


def wants_validation(trainer: pl.Trainer) -> bool:
    """Return whether the trainer's arguments schedule validation, or a callback monitors a metric."""
    by_arguments = trainer.check_val_every_n_epoch != 1 or (
        trainer.val_check_interval is not None
        and (not isinstance(trainer.val_check_interval, float) or trainer.val_check_interval != 1.0)
    )
    return by_arguments or any(getattr(callback, "monitor", None) is not None for callback in trainer.callbacks)  # type: ignore[attr-defined]


class ValidateAtEnd(Callback):
    """Skips validation in all epochs but the last, unless the user or a callback asks for more.

    The end of training is always validated, also if ``max_steps``, ``max_time`` or ``trainer.should_stop`` ends it:
    thresholds of an earlier network would not fit the one that is kept.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the validation schedule that the user asked for."""
        self._every = cast("Settings", pl_module.settings).training.validate_every
        self._chooses = self._every is not None or not wants_validation(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:  # noqa: ANN401
        """Decide whether validation follows; Lightning checks right after this hook."""
        at_end = trainer.should_stop or is_last_step(trainer)
        if self._chooses:
            trainer.val_check_batch = NOW if at_end or self._is_due(trainer) else NOT_NOW
        elif at_end:
            trainer.val_check_batch, trainer.check_val_every_n_epoch = NOW, 1

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Return whether this is the last step of an epoch that is to be validated."""
        return trainer.is_last_batch and self._every is not None and (trainer.current_epoch + 1) % self._every == 0


def is_last_step(trainer: pl.Trainer) -> bool:
    """Return whether a training ends after this step, by its number of steps or of epochs."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    epochs = trainer.max_epochs
    return trainer.is_last_batch and epochs not in {None, -1} and trainer.current_epoch + 1 >= epochs


class BeforeThresholds(Callback, ABC):
    """Base of callbacks that read the trained network before thresholds are fitted and the checkpoint is written."""

    @abstractmethod
    def read_network(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the network, at every validation during training, or once at the end if validation is disabled."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the network before thresholds are fitted."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.read_network(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the network if no validation follows."""
        if not trainer.enable_validation:
            self.read_network(trainer, pl_module)
