# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Callback that installs ``checkpoint_io.py``, which imports anomalib's engine, only when a trainer starts."""

import lightning.pytorch as pl
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback


class WholeCheckpoints(Callback):
    """Callback that gives the trainer a :class:`.WholeCheckpointIO`, unless the user brought a checkpoint plugin."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replace the plugin if it is Lightning's or anomalib's own."""
        from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO  # noqa: PLC0415  # imports the engine

        from .checkpoint_io import WholeCheckpointIO  # noqa: PLC0415

        present = trainer.strategy.checkpoint_io
        if type(present) in {TorchCheckpointIO, AnomalibCheckpointIO}:
            trainer.strategy.checkpoint_io = WholeCheckpointIO(getattr(present, "extra_safe_globals", ()))
