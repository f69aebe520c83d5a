# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Learns to recognise categories while a model trains, from what its backbone sees in the first epoch."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from .distributed import all_gather
from .recogniser import CategoryRecogniser, pool

logger = logging.getLogger(__name__)

FEATURES = "features"
"""Where a training step's result has the backbone's features ``(B, C, H, W)`` of its batch."""


class LearnToRecognise(Callback):
    """Fits the recogniser on pooled features of training batches that name their categories.

    They are there anyway, frozen, and known after one epoch.

    Args:
        recogniser: Gives what is fitted, or ``None`` where thresholds are not kept by category.
        categories: Gives the names of the categories, in the order of their indices.
        replayed: Gives pooled features ``(B, C)`` of categories that the training data do not hold, and their names.
    """

    def __init__(
        self,
        recogniser: Callable[[], CategoryRecogniser | None],
        categories: Callable[[], Sequence[str]],
        replayed: Callable[[], Iterable[tuple[Tensor, Sequence[str]]]],
    ) -> None:
        self._recogniser = recogniser
        self._categories = categories
        self._replayed = replayed
        self._learning = False
        self._features: list[Tensor] = []
        self._names: list[str] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn afresh, unless the fit goes on from a checkpoint that knows the categories."""
        self._features, self._names = [], []
        recogniser = self._recogniser()
        self._learning = recogniser is not None and not (trainer.ckpt_path is not None and recogniser.fitted)
        if self._learning and trainer.is_global_zero:  # what processes keep is joined
            for pooled, names in self._replayed():
                self._keep(pooled, names)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Mapping[str, Any] | Tensor | None,
        batch: Any,  # noqa: ANN401  # anomalib's, or one of the feature cache
        batch_idx: int,
    ) -> None:
        """Keep the pooled features of a batch, while they are needed."""
        names = getattr(batch, "category", None)
        if self._learning and names is not None and isinstance(outputs, Mapping):
            self._keep(pool(outputs[FEATURES]), names)

    def _keep(self, pooled: Tensor, names: Sequence[str]) -> None:
        self._features.append(pooled.float())
        self._names.extend(names)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit before the thresholds are: the epoch's checkpoint is written right after them."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._fit()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit on the whole epoch; if a category is still missing, go on collecting in the next."""
        if self._fit():
            self._learning = False
            self._features, self._names = [], []

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say which categories training never showed."""
        if not self._learning:
            return
        missing = sorted(set(self._categories()) - set(self._gather()[1]))
        if missing:
            logger.warning(
                "The model cannot recognise categories: training showed no image of %s. Train on more batches, or name "
                "the category at prediction (Grad(category=...)).",
                ", ".join(missing),
            )

    def _fit(self) -> bool:
        """Fit on the images seen so far, once there is one of each category; alike in all processes."""
        recogniser, categories = self._recogniser(), list(self._categories())
        if recogniser is None or not self._learning or not categories:
            return False
        features, names = self._gather()
        if not set(categories) <= set(names):
            return False
        known = [row for row, name in enumerate(names) if name in categories]
        labels = torch.tensor([categories.index(names[row]) for row in known])
        recogniser.fit(features[known], labels, len(categories))
        return True

    def _gather(self) -> tuple[Tensor, list[str]]:
        """Give all features ``(N, C)`` on the CPU and their N names, the same in every process."""
        features = torch.cat(self._features).cpu() if self._features else torch.empty(0, 0)
        parts = all_gather((features, self._names))
        filled = [part for part, _ in parts if len(part)]
        return torch.cat(filled) if filled else features, [name for _, names in parts for name in names]
