# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Features of validation images of each product: whatever becomes of a network, it can judge them once more.

Training never sees them, so that their scores tell what becomes of the scores of new images.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from anomalib_grad.backbone.frozen import FrozenBackbone
from anomalib_grad.categories.distributed import all_gather
from anomalib_grad.feature_cache import FeatureBatch, features_of
from anomalib_grad.thresholds.labelled_scores import KnownImage, from_plain, to_plain
from anomalib_grad.torch_model import GradModel, in_eval_mode

from .feature_statistics import evenly

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


class Noting:
    """Notes features of some validation images as validation computes them."""

    def __init__(self) -> None:
        self._wanted: set[str] = set()
        self._found: dict[str, tuple[str, Tensor, KnownImage]] = {}

    def choose(self, trainer: pl.Trainer, most: int) -> int:
        """Choose at most ``most`` images of each product, evenly from all of them.

        Returns:
            The largest number of a product.
        """
        self._wanted, self._found = set(), {}
        samples = getattr(getattr(trainer.val_dataloaders, "dataset", None), "samples", None)
        if samples is None or "category" not in samples:
            return 0
        paths = [evenly(list(own), most) for _, own in samples.groupby("category")["image_path"]]
        self._wanted = {str(path) for own in paths for path in own}
        return max(map(len, paths), default=0)

    def note(self, batch: Any, maps: Sequence[Tensor]) -> None:  # noqa: ANN401  # anomalib's
        """Note the chosen images of a batch, of which the backbone makes ``maps``; no scores yet."""
        names = getattr(batch, "category", None)
        places = [place for place, path in enumerate(batch.image_path or ()) if str(path) in self._wanted]
        if names is None or not places:
            return
        rows = FrozenBackbone.flatten([part[places] for part in maps]).half().cpu()
        for place, row in zip(places, rows, strict=True):
            path, truth = str(batch.image_path[place]), bool(batch.gt_label[place])
            self._found[path] = names[place], row, KnownImage.of(path, 0.0, 0.0, anomalous=truth)

    def take(self) -> dict[str, Judged]:
        """Give what was noted in all processes, and forget it."""
        found: dict[str, tuple[str, Tensor, KnownImage]] = {}
        for part in all_gather(self._found):
            found |= part
        self._wanted, self._found = set(), {}
        own: dict[str, list[tuple[Tensor, KnownImage]]] = {}
        for _, (name, row, image) in sorted(found.items(), key=itemgetter(0)):
            own.setdefault(name, []).append((row, image))
        judged = {
            name: Judged(torch.stack([row for row, _ in pairs]), tuple(image for _, image in pairs))
            for name, pairs in own.items()
        }
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
