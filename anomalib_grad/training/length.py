# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Training length if the trainer sets no limit: the settings' epochs, or their steps converted to epochs."""

import logging
import math

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer

from anomalib_grad.data.training_loader import counting_batches
from anomalib_grad.settings import TrainingSettings

logger = logging.getLogger(__name__)


def find_timer(trainer: pl.Trainer) -> Timer | None:
    """Return the callback that limits the training time, or ``None``."""
    return next((callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, Timer)), None)


class OwnLength:
    """Applies the model's own length to a trainer without a limit, instead of Lightning's default of 1000 epochs.

    Attributes:
        limit: The setting that ends the training, in words; ``None`` if the trainer's limit does.
    """

    def __init__(self) -> None:
        self._counts = False
        self.limit: str | None = None

    def begin(self, trainer: pl.Trainer, settings: TrainingSettings) -> None:
        """Check whether a trainer has a limit when the model is attached to it.

        Lightning fills in its default before the first hook, so an unset limit can be told from the user's only now.
        """
        self._counts = trainer.max_epochs is None and trainer.max_steps == -1 and find_timer(trainer) is None
        if self._counts:
            set_epochs(trainer, settings.max_epochs or settings.least_passes or 1)

    def settle(self, trainer: pl.Trainer, settings: TrainingSettings) -> None:
        """Set the number of epochs, once the data are available and a checkpoint's settings are loaded.

        Training lasts whole epochs, so that it ends where epochs are validated and saved.
        """
        self.limit = None
        if not self._counts:
            return
        if settings.steps is None:
            set_epochs(trainer, settings.max_epochs or 1)
            self.limit = f"training.max_epochs={settings.max_epochs}"
            return
        self.limit = f"training.steps={settings.steps}"
        with counting_batches(trainer):
            per_epoch = trainer.estimated_stepping_batches / max(trainer.max_epochs or 0, 1)
        if per_epoch < 1:  # data without a length
            trainer.fit_loop.max_epochs = -1
            trainer.fit_loop.epoch_loop.max_steps = settings.steps
            return
        epochs = max(round(settings.steps / per_epoch), settings.least_passes or 1)
        if settings.most_passes is not None and epochs > settings.most_passes:
            logger.info(
                "There are few training images: training ends after %d passes over them (training.most_passes), "
                "not after %d steps.",
                settings.most_passes,
                settings.steps,
            )
            epochs = settings.most_passes
            self.limit = f"training.most_passes={epochs}"
        set_epochs(trainer, epochs)


def set_epochs(trainer: pl.Trainer, epochs: int) -> None:
    """End the training after ``epochs``, but not before the user's minimum."""
    trainer.fit_loop.max_epochs = max(epochs, trainer.min_epochs or 0)


def training_steps(trainer: pl.Trainer) -> float:
    """Return the number of steps of the whole training, extrapolated from the pace so far if a timer ends it.

    Raises:
        ValueError: If the training has no known end.
    """
    total = float(trainer.estimated_stepping_batches)
    timer = find_timer(trainer)
    remaining = None if timer is None else timer.time_remaining()
    if timer is not None and remaining is not None:
        elapsed = timer.time_elapsed()
        total = min(total, trainer.global_step * (1 + max(remaining, 0) / max(elapsed, 1e-3)))
    if math.isinf(total):
        raise ValueError("lr_schedule='cosine' needs to know when training ends: set max_epochs or max_steps.")
    return total
