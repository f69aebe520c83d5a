# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Callbacks that reject unusable weights: untrained and diverged ones.

A model is untrained if the user forgot its checkpoint. A diverged model gives every image the score NaN, which exceeds
no threshold: every defect would pass.
"""

import logging

import lightning.pytorch as pl
import torch
from anomalib.post_processing import PostProcessor
from lightning.pytorch.callbacks import Callback

from anomalib_grad.torch_model import GradModel, network_of

logger = logging.getLogger(__name__)

NEVER_TRAINED = (
    "the model was never trained, so its scores mean nothing: give the checkpoint of a trained model (--ckpt_path, in "
    "Python ckpt_path=...), or train first (anomalib train, in Python engine.fit)."
)
TWO_MODELS = (
    "this engine has run another model, whose post-processor and callbacks would act on this one as well: make a new "
    "Engine for each model of another kind."
)
WIDE = ("32-true", "bf16-mixed")
"""Precisions with the full range of float32, which do not overflow in training."""


class RefuseUntrained(Callback):
    """Refuses to test or predict with a head that was neither trained nor loaded; in validation, warns.

    It must run before callbacks that report what else an untrained model lacks.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise a ValueError if callbacks of two models meet, as Lightning keeps those of a trainer's former model."""
        others = [
            callback
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, PostProcessor) and callback is not getattr(pl_module, "post_processor", None)
        ]
        if others or not isinstance(getattr(pl_module, "model", None), GradModel):
            raise ValueError(TWO_MODELS)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise a ValueError if the head still has its initial weights; a checkpoint is loaded before this hook."""
        if network_of(pl_module).head.is_as_drawn():
            raise ValueError(NEVER_TRAINED)

    on_predict_start = on_test_start

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn in a stand-alone validation, which may be wanted as a baseline for training."""
        if trainer.state.fn == "validate" and network_of(pl_module).head.is_as_drawn():
            logger.warning(NEVER_TRAINED)


class DivergenceError(RuntimeError):
    """Training led to infinite or NaN weights."""


class StopDiverged(Callback):
    """Ends a training whose weights are infinite or NaN, before they are validated or saved.

    It checks the weights at the end of each epoch; checkpoints of earlier epochs stay as they are.
    """

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check before the weights are validated, and saved for their metrics."""
        if trainer.state.fn == "fit":
            self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check before the weights are saved; Lightning calls checkpoint callbacks last."""
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
