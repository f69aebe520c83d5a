# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Fit the category recogniser during training, on backbone features of the first epoch."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from anomalib_grad.categories.distributed import all_gather
from anomalib_grad.categories.recogniser import pool
from anomalib_grad.feature_cache import FeatureBatch, features_of
from anomalib_grad.thresholds.post_processor import per_category_or_none
from anomalib_grad.torch_model import network_of

logger = logging.getLogger(__name__)

FEATURES = "features"
"""Key of a batch's backbone features ``(B, C, H, W)`` in the output of a training step."""


class LearnToRecognise(Callback):
    """Fits the recogniser on pooled features of training batches that name their categories.

    Training computes these features anyway. The backbone is frozen, so one epoch shows all of them.

    Args:
        replayed: Returns features of categories that the training data lack.
    """

    def __init__(self, replayed: Callable[[], Iterable[FeatureBatch]]) -> None:
        self._replayed = replayed
        self._learning = False
        self._seen: list[tuple[Tensor, Sequence[str]]] = []  # pooled features (B, C), and the names of their categories

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start afresh, unless the fit resumes from a checkpoint with a fitted recogniser."""
        own, self._seen = per_category_or_none(pl_module.post_processor), []
        self._learning = own is not None and not (trainer.ckpt_path is not None and own.recogniser.fitted)
        if self._learning and trainer.is_global_zero:  # features of all processes are joined later
            backbone = network_of(pl_module).backbone
            for batch in self._replayed():
                self._seen.append((pool(features_of(batch, backbone)).float(), batch.category or ()))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Mapping[str, Any] | Tensor | None,
        batch: Any,  # noqa: ANN401  # anomalib's, or one of the feature cache
        batch_idx: int,
    ) -> None:
        """Keep the pooled features of a batch until the recogniser is fitted."""
        names = getattr(batch, "category", None)
        if self._learning and names is not None and isinstance(outputs, Mapping):
            self._seen.append((pool(outputs[FEATURES]).float(), names))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit before the thresholds are fitted: the epoch's checkpoint is written right after them."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._fit(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit on the whole epoch; if a category is still missing, keep collecting in the next epoch."""
        if self._fit(pl_module):
            self._learning, self._seen = False, []

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn about categories of which training showed no image."""
        own = per_category_or_none(pl_module.post_processor)
        if not self._learning or own is None:
            return
        missing = sorted(set(own.categories) - set(self._gather()[1]))
        if missing:
            logger.warning(
                "The model cannot recognise categories: training showed no image of %s. Train on more batches, or name "
                "the category at prediction (Grad(category=...)).",
                ", ".join(missing),
            )

    def _fit(self, pl_module: pl.LightningModule) -> bool:
        """Fit identically in all processes once every category has been seen; return whether it was fitted."""
        own = per_category_or_none(pl_module.post_processor)
        if own is None or not self._learning or not own.categories:
            return False
        features, names = self._gather()
        if not set(own.categories) <= set(names):
            return False
        known = [row for row, name in enumerate(names) if name in own.categories]
        labels = torch.tensor([own.categories.index(names[row]) for row in known])
        own.recogniser.fit(features[known], labels, len(own.categories))
        return True

    def _gather(self) -> tuple[Tensor, list[str]]:
        """Return all features ``(N, C)`` on the CPU and their N category names, the same in every process."""
        features = torch.cat([pooled for pooled, _ in self._seen]).cpu() if self._seen else torch.empty(0, 0)
        parts = all_gather((features, [name for _, names in self._seen for name in names]))
        filled = [part for part, _ in parts if len(part)]
        return torch.cat(filled) if filled else features, [name for _, names in parts for name in names]
