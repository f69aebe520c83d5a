# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of one trained model under many ways of scoring: the network runs over the test images once."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.anomaly_map import AnomalyMapGenerator, dissimilarity, residual_norm
from anomalib_grad.evaluation.metrics import METRIC_NAMES, CategoryMetrics, Predictions, mean_over_categories

BINS = 4000


class Distances(NamedTuple):
    """Both distances of all test images, with the truth."""

    residual: Tensor  # (N, 1, h, w)
    dissimilarity: Tensor  # (N, 1, h, w)
    labels: Tensor  # (N,) bool
    masks: Tensor  # (N, H, W) bool
    categories: list[str]


@torch.no_grad()
def distances(model: Grad, data: MultiCategory) -> Distances:
    """Run the network over the test images, in float32."""
    model = model.eval().float().cpu()
    data.setup("test")
    parts: dict[str, list[Tensor]] = {"residual": [], "dissimilarity": [], "labels": [], "masks": []}
    categories: list[str] = []
    for batch in data.test_dataloader():
        model.pre_processor.on_test_batch_start(None, model, batch, 0)  # type: ignore[union-attr]
        features = model.model.backbone(batch.image)
        refined, similarity = model.model.head(features)
        mask = batch.gt_mask if batch.gt_mask is not None else torch.zeros_like(batch.image[:, 0])
        values = (residual_norm(features, refined), dissimilarity(similarity), batch.gt_label.bool(), mask.bool())
        for own, value in zip(parts.values(), values, strict=True):
            own.append(value)
        categories += batch.category
    return Distances(**{name: torch.cat(part) for name, part in parts.items()}, categories=categories)


def figures(model: Grad, found: Distances, scoring: dict[str, Any]) -> dict[str, float]:
    """Score as told and compare with the truth: every metric of every category and ``mean/<metric>``, in [0, 1]."""
    windows = {"smoothing_window": 21, "score_window": 32} | scoring
    distance = getattr(found, windows.pop("distance", "residual"))
    generator = AnomalyMapGenerator(model.model.backbone.feature_size, model.model.backbone.image_size, **windows)
    maps, scores = generator(distance)
    maps = (maps - maps.min()) / (maps.max() - maps.min())  # the binned metrics want [0, 1]
    metrics = CategoryMetrics(binned=BINS)
    for name in sorted(set(found.categories)):
        rows = torch.tensor([category == name for category in found.categories])
        metrics.update(name, Predictions(scores[rows], found.labels[rows], maps[rows, 0], found.masks[rows]))
    computed = metrics.compute(metrics.gather_counts())
    return flat({**computed, "mean": mean_over_categories(list(computed.values()))}.items())


def flat(rows: Iterable[tuple[str, dict[str, float]]]) -> dict[str, float]:
    """Name every figure ``category/metric``."""
    return {f"{category}/{name}": values[name] for category, values in rows for name in METRIC_NAMES}
