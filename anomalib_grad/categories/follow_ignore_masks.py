# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Callback that hands the data's ignore masks (``data/ignore_masks.py``) to the network."""

import logging
from typing import cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from anomalib_grad.data.ignore_masks import ignore_masks, kept_pixels
from anomalib_grad.torch_model import network_of

logger = logging.getLogger(__name__)


class FollowIgnoreMasks(Callback):
    """Gives the masks of the data to the network before anything is judged.

    Training uses the masks of its data only. In validation and test, masks of the data replace the model's own, so
    that thresholds can be fitted again for another mask.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the masks, also when training resumes."""
        trained = getattr(getattr(trainer, "datamodule", None), "categories", None)
        if trained is None or set(cast("list[str]", pl_module.categories)) <= set(trained):
            network_of(pl_module).ignore({}, ())  # else masks of categories without images in the data stay
        self._take(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the masks, unless training has done so."""
        if trainer.state.fn == "validate":
            self._take(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the masks."""
        self._take(trainer, pl_module)

    @staticmethod
    def _take(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the masks of the data.

        Raises:
            ValueError: If a mask ignores everything, or belongs to a category and the model keeps none.
        """
        masks = ignore_masks(getattr(trainer, "datamodule", None))
        network, categories = network_of(pl_module), cast("list[str]", pl_module.categories)
        if categories and "" in masks:
            logger.warning("The ignore mask %s is not used: the data do not name its product.", masks.pop(""))
        if not masks:
            return
        if not categories and "" not in masks:
            raise ValueError(
                f"The ignore mask {next(iter(masks.values()))} belongs to one of several products, which this model "
                f"does not distinguish: train it on them with post_processor=True, validate it without the mask first, "
                f"or remove the mask."
            )
        network.ignore({name: kept_pixels(path, network.image_size) for name, path in masks.items()}, categories)
