# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of raw scores, which validation has: thresholds and ranges are known only after it."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import nn


class RankRawScores(Callback):
    """Has metrics rank scores as they are.

    torchmetrics takes scores outside of [0, 1] for logits and applies a sigmoid, batch by batch: raw scores, far above
    1, all become 1 in float32, and the AUROC 0.5, whatever the model.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look for such metrics in the model and among the callbacks."""
        owners = [owner for owner in (pl_module, *trainer.callbacks) if isinstance(owner, nn.Module)]  # type: ignore[attr-defined]
        for module in (module for owner in owners for module in owner.modules()):
            if getattr(module, "normalization", None) == "sigmoid":
                vars(module)["normalization"] = None  # a plain attribute, whatever types PyTorch states for them
