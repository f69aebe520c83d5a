# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Callbacks that train on something else than what the datamodule's training loader gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class ReplacesTrainingLoader(Callback, ABC):
    """Stands between the trainer and the datamodule's training loader, and gives the datamodule its own back.

    Of several the one that is set up last gives what is trained on.
    """

    @abstractmethod
    def training_loader(self, trainer: pl.Trainer, images: object) -> object:
        """Give what is trained on in the place of the datamodule's loader ``images``, or that."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stand between the trainer and the loader."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        if stage != "fit" or datamodule is None:
            return
        images: Callable[[], object] = datamodule.train_dataloader

        def train_dataloader() -> object:
            return self.training_loader(trainer, images())

        datamodule.train_dataloader = train_dataloader

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the datamodule its own loader back."""
        vars(getattr(trainer, "datamodule", None) or self).pop("train_dataloader", None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the datamodule its own loader back."""
        self.teardown(trainer, pl_module, "fit")
