# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Features of validation images of each product: whatever becomes of a network, it can judge them once more.

Training never sees them, so that their scores tell what becomes of the scores of new images.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from anomalib.pre_processing import PreProcessor
from torch import Tensor

from anomalib_grad.backbone.frozen import FrozenBackbone
from anomalib_grad.feature_cache import FeatureBatch, batches_of, features_of
from anomalib_grad.thresholds.known_images import KnownImage, from_plain, to_plain
from anomalib_grad.torch_model import GradModel

from .learning import evenly, in_eval_mode

BATCH = 32
"""Rows that are judged together."""
JUDGED = "grad_judged_sample"
"""Where a checkpoint has them."""


class Judged(NamedTuple):
    """Validation images of a product.

    Attributes:
        features: Features of each image, flattened to a row: float16, shape (N, F).
        images: The same N images, with scores of the network that the thresholds belong to.
    """

    features: Tensor
    images: tuple[KnownImage, ...]


def to_checkpoint(judged: Mapping[str, Judged]) -> dict[str, Any]:
    """Give samples as plain data."""
    return {name: {"features": one.features, "images": to_plain(one.images)} for name, one in judged.items()}


def from_checkpoint(stored: Any, row_length: int) -> dict[str, Judged]:  # noqa: ANN401  # whatever a file holds
    """Read what :func:`to_checkpoint` gave; nothing from checkpoints of before, which have ``None``.

    Raises:
        ValueError: If it is something else.
        TypeError: If it is something else.
        LookupError: If it is something else.
    """
    found = {}
    for name, one in ({} if stored is None else stored).items():
        features, images = one["features"], from_plain(one["images"])
        if features.dtype != torch.float16 or features.shape != (len(images), row_length):
            raise ValueError(f"it must hold a row of {row_length} values in float16 for each image of {name}")
        found[str(name)] = Judged(features, images)
    return found


@torch.no_grad()
def sample_judged(
    trainer: pl.Trainer, module: pl.LightningModule, backbone: FrozenBackbone, most: int
) -> dict[str, Judged]:
    """Take features of at most ``most`` validation images of each product, evenly from all of them; no scores yet."""
    loader: Any = trainer.val_dataloaders
    samples = getattr(getattr(loader, "dataset", None), "samples", None)
    if samples is None or "category" not in samples:
        return {}
    own = samples.reset_index(drop=True).groupby("category").groups.values()
    rows: dict[str, list[Tensor]] = {}
    images: dict[str, list[KnownImage]] = {}
    for batch in batches_of(loader, [index for indices in own for index in evenly(list(indices), most)]):
        on_device = trainer.strategy.batch_to_device(batch)
        if isinstance(module.pre_processor, PreProcessor):
            module.pre_processor.on_validation_batch_start(trainer, module, on_device, 0)
        if getattr(on_device, "category", None) is None:
            return {}
        found = backbone.rows(on_device.image).half().cpu()
        for name, path, truth, row in zip(batch.category, batch.image_path, batch.gt_label, found, strict=True):
            rows.setdefault(name, []).append(row)
            images.setdefault(name, []).append(KnownImage.of(path, 0.0, 0.0, anomalous=bool(truth)))
    judged = {name: Judged(torch.stack(own), tuple(images[name])) for name, own in rows.items()}
    return {name: one for name, one in judged.items() if one.features.isfinite().all()}


@torch.no_grad()
def judge_again(network: GradModel, judged: Judged, category: int) -> Judged:
    """Give the images the scores that a network makes of them, by the index of their category."""
    device = network.anomaly_map_generator.map_height.device
    values: list[tuple[float, float]] = []
    with in_eval_mode(network):
        for rows in judged.features.split(BATCH):
            features = features_of(FeatureBatch(rows), network.backbone)
            found: Any = network(features=features, category=torch.full((len(rows),), category, device=device))
            values += zip(found.pred_score.tolist(), found.anomaly_map.flatten(1).amax(dim=1).tolist(), strict=True)
    images = zip(judged.images, values, strict=True)
    return Judged(
        judged.features, tuple(KnownImage.of(image.name, *pair, anomalous=image.anomalous) for image, pair in images)
    )
