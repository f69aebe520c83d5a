# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Ends a training whose weights are no longer numbers, before they are validated or saved.

A model with such weights scores every image NaN, and NaN is above no threshold: it would pass every defect.
"""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

WIDE = ("32-true", "bf16-mixed")
"""Precisions whose numbers are as large as any that a training meets."""


class DivergenceError(RuntimeError):
    """Training led to weights that are infinite or not a number."""


class StopDiverged(Callback):
    """Looks at the weights when an epoch of training ends; checkpoints of earlier epochs stay as they are."""

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
