# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Base of callbacks that replace the datamodule's training loader."""

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)


class ReplacesTrainingLoader(Callback, ABC):
    """Callback that replaces the datamodule's training loader during fit, and restores it afterwards.

    If there are several, the one that is set up last determines what is trained on.
    """

    @abstractmethod
    def training_loader(self, trainer: pl.Trainer, images: Any) -> object:  # noqa: ANN401  # of any kind
        """Return the loader to train on in place of the datamodule's loader ``images``, or ``images`` itself."""

    @abstractmethod
    def wanted(self, model: Any) -> str | None:  # noqa: ANN401  # Grad, which this room does not know
        """Return the name of the setting that asks for this callback, or ``None`` if it is not set."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replace the loader; warn if there is no datamodule whose loader could be replaced."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        if stage != "fit":
            return
        if datamodule is not None:
            images = datamodule.train_dataloader
            datamodule.train_dataloader = lambda: self.training_loader(trainer, images())
        elif (setting := self.wanted(pl_module)) is not None:
            logger.warning("%s is off: pass the trainer a datamodule instead of data loaders.", setting)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the datamodule's own loader."""
        vars(getattr(trainer, "datamodule", None) or self).pop("train_dataloader", None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the datamodule's own loader."""
        self.teardown(trainer, pl_module, "fit")


@contextmanager
def counting_batches(trainer: pl.Trainer) -> Iterator[None]:
    """Let the trainer count an epoch's batches in the block without building the replacement loader.

    Building it may take minutes, and is unnecessary if a checkpoint, whose progress is read after the block, leaves
    nothing to train. The trainer requests it when it trains. No worker is started, and no random number is drawn.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    replaced = vars(datamodule).pop("train_dataloader", None) if datamodule is not None else None
    if replaced is None:
        yield
        return
    images = datamodule.train_dataloader
    datamodule.train_dataloader = lambda: index_loader(images())
    with isolate_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about a loader come when it is requested
        try:
            yield
        finally:
            datamodule.train_dataloader = replaced
    trainer.fit_loop._combined_loader = None  # makes Lightning request it again


def index_loader(loader: object) -> object:
    """Return a loader of indices instead of images, with as many batches; only a ``DataLoader`` is replaced."""
    if not isinstance(loader, DataLoader):
        return loader
    return DataLoader(range(len(loader.dataset)), **sampling_arguments(loader))  # type: ignore[arg-type]


def sampling_arguments(loader: DataLoader) -> dict[str, Any]:
    """Return arguments for a loader that draws like the given one from another dataset of the same length."""
    if loader.batch_size is None:
        return {"batch_sampler": loader.batch_sampler}
    return {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
