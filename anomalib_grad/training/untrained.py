# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""No run judges images by the random weights that a model begins with: they are what a forgotten checkpoint leaves."""

import logging
from collections.abc import Callable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from anomalib_grad.components.head import GradHead

logger = logging.getLogger(__name__)

NEVER_TRAINED = (
    "the model was never trained, so its scores mean nothing: give the checkpoint of a training (--ckpt_path, in "
    "Python ckpt_path=...), or train first (anomalib train, in Python engine.fit)."
)


class RefuseUntrained(Callback):
    """Refuses to test and to predict by a head that nobody has trained or loaded, and warns of its validation.

    To be called before whatever says what such a model lacks besides.

    Args:
        head: Gives the head.
    """

    def __init__(self, head: Callable[[], GradHead]) -> None:
        self._head = head

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the head; a checkpoint has been loaded before.

        Raises:
            ValueError: If it is as it was drawn.
        """
        if self._head().is_as_drawn():
            raise ValueError(NEVER_TRAINED)

    on_predict_start = on_test_start

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so in a validation by itself, which a training may be compared with."""
        if trainer.state.fn == "validate" and self._head().is_as_drawn():
            logger.warning(NEVER_TRAINED)
