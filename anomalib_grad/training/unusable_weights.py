# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that no image must be judged by: those that a model begins with, and those that are no longer numbers.

The former are what a forgotten checkpoint leaves. A model with the latter scores every image NaN, and NaN is above no
threshold: it would pass every defect.
"""

import logging

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from anomalib_grad.torch_model import network_of

logger = logging.getLogger(__name__)

NEVER_TRAINED = (
    "the model was never trained, so its scores mean nothing: give the checkpoint of a training (--ckpt_path, in "
    "Python ckpt_path=...), or train first (anomalib train, in Python engine.fit)."
)
WIDE = ("32-true", "bf16-mixed")
"""Precisions whose numbers are as large as any that a training meets."""


class RefuseUntrained(Callback):
    """Refuses to test and to predict by a head that nobody has trained or loaded, and warns of its validation.

    To be called before whatever says what such a model lacks besides.
    """

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the head, as a checkpoint has been loaded before; a ValueError if it is as it was drawn."""
        if network_of(pl_module).head.is_as_drawn():
            raise ValueError(NEVER_TRAINED)

    on_predict_start = on_test_start

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so in a validation by itself, which a training may be compared with."""
        if trainer.state.fn == "validate" and network_of(pl_module).head.is_as_drawn():
            logger.warning(NEVER_TRAINED)


class DivergenceError(RuntimeError):
    """Training led to weights that are infinite or not a number."""


class StopDiverged(Callback):
    """Ends a training whose weights are no longer numbers, before they are validated or saved.

    It looks at them when an epoch ends; checkpoints of earlier epochs stay as they are.
    """

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before the weights are validated, and saved for how well they do."""
        if trainer.state.fn == "fit":
            self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before the weights are saved; Lightning calls what saves them last."""
        self._check(trainer, pl_module)

    @staticmethod
    def _check(trainer: pl.Trainer, model: pl.LightningModule) -> None:
        name = next((name for name, values in model.named_parameters() if not torch.isfinite(values).all()), None)
        if name is not None:
            used = trainer.precision
            other = "" if used in WIDE else f"with precision {' or '.join(WIDE)} (it was {used}), or "
            raise DivergenceError(
                f"training diverged in epoch {trainer.current_epoch}: {name} is no longer finite; train {other}with a "
                f"lower learning_rate."
            )
