# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of training features: whitening, the threshold ``k``, and each category's unit of distance."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from anomalib_grad.components.normal_scale import PRIOR_IMAGES
from anomalib_grad.feature_cache import FeatureBatch, batches_of, features_of
from anomalib_grad.thresholds.post_processor import per_category_or_none
from anomalib_grad.torch_model import in_eval_mode, network_of

from .mse_threshold import AUTO_IMAGES, estimate_mse_threshold
from .validation import BeforeThresholds

if TYPE_CHECKING:
    from anomalib.data import Batch

logger = logging.getLogger(__name__)

SCALE_IMAGES = 100
"""Training images per category that suffice to estimate its unit of distance."""


class LearnFromFeatures(BeforeThresholds):
    """Estimates statistics of training features; keeps whitening and ``k`` if a checkpoint provides them.

    Every process reads the same images, so all arrive at the same values.

    Args:
        replayed: Returns features of categories that the training data lack.
    """

    def __init__(self, replayed: Callable[[], Iterable[FeatureBatch]]) -> None:
        self._replayed = replayed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the units of an earlier training's categories; a checkpoint to resume from is loaded after this."""
        scale = network_of(pl_module).normal_scale
        if stage == "fit" and scale is not None:
            scale.reset()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit the whitening, and estimate the threshold ``k`` if it is ``"auto"``."""
        network = network_of(pl_module)
        whitening, threshold = network.whitening, network.head.mse_threshold

        def features() -> Iterator[Tensor]:
            for batch in training_batches(trainer, pl_module, spread(trainer, AUTO_IMAGES)):
                yield features_of(batch, network.backbone)

        with isolate_rng():
            if whitening is not None and not whitening.images:
                pl_module.print(f"Fitting the whitening of features on up to {AUTO_IMAGES} training images.")
                whitening.fit(features())
            if torch.isnan(threshold):
                pl_module.print(f"Estimating mse_threshold (k) from up to {AUTO_IMAGES} training images.")
                threshold.copy_(estimate_mse_threshold(map(network.head_input, features())))
                pl_module.print(f"mse_threshold (k) estimated from training features: {threshold.item():.4g}")

    @torch.no_grad()
    def read_network(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit each category's unit of distance to the scores of its training images."""
        network, own = network_of(pl_module), per_category_or_none(pl_module.post_processor)
        categories = [] if own is None else own.categories
        if network.normal_scale is None:
            return
        scores: defaultdict[int | None, list[Tensor]] = defaultdict(list)
        network.normal_scale.reset()
        with in_eval_mode(network), isolate_rng():
            shown = training_batches(trainer, pl_module, spread_by_category(trainer, SCALE_IMAGES))
            for batch in chain(shown, self._replayed()):
                features = features_of(batch, network.backbone)
                names = getattr(batch, "category", None) or [None] * len(features)
                places = [categories.index(name) if name in categories else None for name in names]
                known = [len(categories) if place is None else place for place in places]
                found = network(features=features, category=torch.tensor(known, device=features.device)).pred_score
                for place, score in zip(places, found, strict=True):
                    scores[place].append(score)
        network.normal_scale.fit({index: torch.stack(values) for index, values in scores.items()}, len(categories))
        images = count_images(trainer)
        for index, values in scores.items():
            category = None if index is None else categories[index]
            count = images.get(category, len(values))
            if count < PRIOR_IMAGES:
                name = "The product" if category is None else f"Category {category!r}"
                message = "%s has only %d training images, too few to estimate its usual scores: give it %d or more."
                logger.warning(message, name, count, PRIOR_IMAGES)


def training_batches(
    trainer: pl.Trainer, module: pl.LightningModule, indices: Sequence[int]
) -> "Iterator[Batch | FeatureBatch]":
    """Yield batches of some training images, or of their cached features, pre-processed as for a training step."""
    loader: Any = trainer.train_dataloader
    for batch in batches_of(loader, indices):
        on_device = trainer.strategy.batch_to_device(batch)
        if isinstance(module.pre_processor, PreProcessor):
            module.pre_processor.on_train_batch_start(trainer, module, on_device, 0)
        yield on_device


def spread(trainer: pl.Trainer, most: int) -> list[int]:
    """Return indices of at most ``most`` training images, spread evenly over the data set."""
    return evenly_spaced(range(len(dataset_of(trainer))), most)


def spread_by_category(trainer: pl.Trainer, most: int) -> list[int]:
    """Return indices of up to ``most`` training images per category; up to twice as many in all without categories."""
    samples = getattr(dataset_of(trainer), "samples", None)
    if samples is None or "category" not in samples:
        return spread(trainer, 2 * most)
    own: dict[str, list[int]] = {}
    for index, name in enumerate(samples["category"]):
        own.setdefault(name, []).append(index)
    return [index for indices in own.values() for index in evenly_spaced(indices, most)]


def count_images(trainer: pl.Trainer) -> dict[str | None, int]:
    """Count the distinct training images of each category, under ``None`` if the data have no categories."""
    samples = getattr(dataset_of(trainer), "samples", None)
    if samples is None:
        return {}
    if "category" not in samples:
        return {None: samples["image_path"].nunique()}
    return samples.groupby("category")["image_path"].nunique().to_dict()


def evenly_spaced(indices: Sequence[int], most: int) -> list[int]:
    """Return at most ``most`` of the given indices, evenly spaced."""
    places = np.linspace(0, len(indices) - 1, min(len(indices), most)).round().astype(int)
    return [indices[place] for place in places]


def dataset_of(trainer: pl.Trainer) -> Any:  # noqa: ANN401  # anomalib's, or of cached features
    """Return the training data set."""
    loader: Any = trainer.train_dataloader
    return loader.dataset
