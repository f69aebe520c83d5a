# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Lightning callback that lets training read cached features instead of images."""

import logging
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from anomalib_grad.backbone.tiling import describe
from anomalib_grad.data.training_loader import ReplacesTrainingLoader
from anomalib_grad.torch_model import network_of

from .conditions import choose_place, passes, reason_against_caching
from .dataset import CachedFeatures, cached_loader
from .filling import fill, fill_shared
from .fingerprint import fingerprint, hash_images, hash_weights
from .store import GIB, CacheFile

logger = logging.getLogger(__name__)

PLACES: dict[bool | str, str] = {"auto": "auto", True: "auto", "memory": "memory", "disk": "disk", False: "off"}


class FeatureCaching(ReplacesTrainingLoader):
    """Replaces the training images by their cached features, if these never change.

    The cache is filled when the trainer asks the datamodule for its training loader: before the first epoch, with a
    progress bar.

    Args:
        place: Where to cache features: ``auto``, ``memory``, ``disk`` or ``False``, as ``feature_cache`` of Grad.

    Attributes:
        rows: Features ``(N, F)`` of the N training images, if they are cached.

    Raises:
        ValueError: If ``place`` is none of these.
    """

    def __init__(self, place: bool | str) -> None:
        if place not in PLACES:
            raise ValueError(f"feature_cache must be 'auto', 'memory', 'disk' or false, got {place!r}.")
        self.place = PLACES[place]
        self._name = ""
        self.rows: np.ndarray | None = None

    def wanted(self, model: Any) -> str | None:  # noqa: ANN401  # see the base class
        """Return the name of the setting if the user chose a place, else ``None``."""
        return "feature_cache" if self.place in {"memory", "disk"} else None

    def training_loader(self, trainer: pl.Trainer, images: Any) -> object:  # noqa: ANN401  # see the base class
        """Fill the cache and return a loader over it, or the loader of images if features are not cached."""
        if self.place == "off":
            return images
        transform = getattr(trainer.lightning_module.pre_processor, "transform", None)
        reason = reason_against_caching(images, transform)
        if reason is None:
            left = passes(trainer, len(images))
            if left <= 0 or trainer.should_stop:
                return images
            if self.place == "auto" and left <= 1:
                reason = "training sees no image more than once"
        if reason is not None:
            level = logging.INFO if self.place == "auto" else logging.WARNING
            logger.log(level, "The feature cache is off: %s.", reason)
            return images
        rows = self._features(trainer, images, transform)
        return images if rows is None else cached_loader(images, CachedFeatures(rows, images.dataset.samples))

    def _features(self, trainer: pl.Trainer, images: DataLoader, transform: nn.Module | None) -> np.ndarray | None:
        """Return the rows of features, cached or computed now; ``None`` if there is no room for them."""
        model: Any = trainer.lightning_module
        backbone, settings = network_of(model).backbone, model.settings.cache
        backbone.ensure_weights()
        dataset: Any = images.dataset
        dtype = np.dtype(settings.dtype or "float32")
        name = fingerprint(
            hash_images(dict.fromkeys(dataset.samples["image_path"])),  # once for all copies of an image
            [getattr(dataset, name, None) for name in ("augmentations", "copies", "turned", "file_format")],
            transform,
            [backbone.name, backbone.layers, backbone.image_size, hash_weights(backbone.network)],
            describe(backbone.tiler),
            [trainer.precision, dtype.name],
        )
        if name == self._name and self.rows is not None:
            return self.rows
        self.rows, self._name = None, name  # frees the old rows first
        shape = (len(dataset), backbone.row_length)
        size = shape[0] * shape[1] * dtype.itemsize
        place = choose_place(settings, self.place, size, trainer.world_size)
        compute = partial(fill, trainer, backbone, transform, images)
        if place == "memory":
            rows = np.empty(shape, dtype)
            compute(rows, range(len(dataset)))
            self.rows = rows  # only when complete: a notebook goes on after Ctrl-C
        elif place == "disk":
            node = f"-{trainer.node_rank}" if trainer.num_nodes > 1 else ""
            file = CacheFile(settings.resolved_folder, f"{name}{node}", shape, dtype)
            self.rows = fill_shared(trainer, file, int(settings.limit * GIB), compute)
        if place is not None:
            text = f"Features of {len(dataset)} training images are cached: {size / GIB:.3g} GiB ({place})."
            trainer.lightning_module.print(text)
        return self.rows
