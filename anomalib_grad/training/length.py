# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How long Grad trains if nobody says: its own epochs, or its steps on the data at hand."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer


def has_limit(trainer: pl.Trainer) -> bool:
    """Tell whether the user limited the training: by epochs, by steps or by time."""
    return trainer.max_epochs is not None or trainer.max_steps != -1 or find_timer(trainer) is not None


def find_timer(trainer: pl.Trainer) -> Timer | None:
    """The callback that ends a training after some time, if there is one."""
    return next((callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, Timer)), None)


class TrainingLengthMixin(pl.LightningModule):
    """Gives a trainer without any limit the model's own length."""

    max_epochs: int | None
    steps: int | None
    least_passes: int
    _own_length = False

    @pl.LightningModule.trainer.setter  # type: ignore[attr-defined]
    def trainer(self, trainer: pl.Trainer | None) -> None:
        """Attach a trainer; one without any limit gets this model's epochs instead of Lightning's 1000.

        Lightning fills in its own limit before the first hook, so this is the only moment that tells an unset limit
        from one that the user wants.
        """
        if isinstance(trainer, pl.Trainer):
            self._own_length = not has_limit(trainer)
            if self._own_length:
                self._set_epochs(trainer, self.max_epochs or self.least_passes)
        pl.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def settle_length(self) -> None:
        """Set the epochs once the data are there and a checkpoint has brought its settings.

        Whole epochs, so that training ends where epochs are validated and saved.
        """
        if not self._own_length:
            return
        if self.steps is None:
            self._set_epochs(self.trainer, self.max_epochs or self.least_passes)
            return
        per_epoch = self.trainer.estimated_stepping_batches / max(self.trainer.max_epochs or 0, 1)
        if per_epoch >= 1:
            self._set_epochs(self.trainer, max(round(self.steps / per_epoch), self.least_passes))
        else:  # data without a length
            self.trainer.fit_loop.max_epochs = -1
            self.trainer.fit_loop.epoch_loop.max_steps = self.steps

    @staticmethod
    def _set_epochs(trainer: pl.Trainer, epochs: int) -> None:
        trainer.fit_loop.max_epochs = max(epochs, trainer.min_epochs or 0)
