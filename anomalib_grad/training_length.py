# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How long Grad trains if nobody says."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer

PUBLISHED_EPOCHS = {"residual": 100, "mobile": 50, "small": 50}


def has_limit(trainer: pl.Trainer) -> bool:
    """Tell whether the user limited the training: by epochs, by steps or by time."""
    timed = any(isinstance(callback, Timer) for callback in getattr(trainer, "callbacks", []))
    return trainer.max_epochs is not None or trainer.max_steps != -1 or timed


class PublishedLengthMixin(pl.LightningModule):
    """Gives a trainer without any limit the model's own number of epochs."""

    max_epochs: int

    @pl.LightningModule.trainer.setter  # type: ignore[attr-defined]
    def trainer(self, trainer: pl.Trainer | None) -> None:
        """Attach a trainer; one without any limit gets this model's epochs instead of Lightning's 1000.

        Lightning fills in its own limit before the first hook, so this is the only moment that tells an unset limit
        from one that the user wants.
        """
        if isinstance(trainer, pl.Trainer) and not has_limit(trainer):
            trainer.fit_loop.max_epochs = max(self.max_epochs, trainer.min_epochs or 0)
        pl.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]
