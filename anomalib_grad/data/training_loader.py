# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Callbacks that train on something else than what the datamodule's training loader gives."""

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)


class ReplacesTrainingLoader(Callback, ABC):
    """Stands between the trainer and the datamodule's training loader, and gives the datamodule its own back.

    Of several the one that is set up last gives what is trained on.
    """

    @abstractmethod
    def training_loader(self, trainer: pl.Trainer, images: object) -> object:
        """Give what is trained on in the place of the datamodule's loader ``images``, or that."""

    @abstractmethod
    def wanted(self) -> str | None:
        """Name the setting by which someone asks for this; ``None`` where nobody does."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stand between the trainer and the loader; say so where there is no datamodule to stand before."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        if stage != "fit":
            return
        if datamodule is None:
            if self.wanted() is not None:
                logger.warning("%s is off: give the training a datamodule, not loaders.", self.wanted())
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


@contextmanager
def counting(trainer: pl.Trainer) -> Iterator[None]:
    """Have the trainer count the batches of an epoch in the block without making what stands in the images' place.

    That may take minutes, and is not needed where a checkpoint, of which the progress is read after the block, leaves
    nothing to train. The trainer asks for it when it trains. No worker is started, and no random number drawn.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    replaced = vars(datamodule).pop("train_dataloader", None) if datamodule is not None else None
    if replaced is None:
        yield
        return
    images: Callable[[], object] = datamodule.train_dataloader
    datamodule.train_dataloader = lambda: order_of(images())
    with isolate_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is said of a loader is said when it is asked for
        try:
            yield
        finally:
            datamodule.train_dataloader = replaced
    trainer.fit_loop._combined_loader = None  # as Lightning has it be asked for again


def order_of(loader: object) -> object:
    """Give a loader with as many batches, of indices in the place of images; any but a ``DataLoader`` as it is."""
    if not isinstance(loader, DataLoader):
        return loader
    return DataLoader(range(len(loader.dataset)), **drawing_as(loader))  # type: ignore[arg-type]


def drawing_as(loader: DataLoader) -> dict[str, Any]:
    """Arguments of a loader that draws as a given one does, from another data set of the same length."""
    if loader.batch_size is None:
        return {"batch_sampler": loader.batch_sampler}
    return {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
