# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of one trained model under many ways of scoring: the network runs over the test images once."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from anomalib.data import Batch
from torch import Tensor

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.anomaly_map import (
    AnomalyMapGenerator,
    cosine_distance,
    dissimilarity,
    layer_dissimilarity,
    residual_norm,
)
from anomalib_grad.evaluation.metrics import METRIC_NAMES, CategoryMetrics, Predictions, mean_over_categories

BINS = 4000


class Distances(NamedTuple):
    """Distance maps of all test images, with the truth."""

    maps: dict[str, Tensor]  # (N, 1, h, w) by the distance's name
    labels: Tensor  # (N,) bool
    masks: Tensor  # (N, H, W) bool
    categories: list[str]


class Whitening(NamedTuple):
    """How the residual ``x - x_hat`` of training images varies, as matrices that make its variance one."""

    standardised: Tensor  # (C, C) diagonal: every channel over its standard deviation
    mahalanobis: Tensor  # (C, C)


class Seen(NamedTuple):
    """A batch, its features and what would be normal in their place, both ``(B, C, h, w)``."""

    batch: Batch
    features: Tensor
    normal: Tensor


@torch.no_grad()
def run_network(model: Grad, loader: Any) -> Iterator[Seen]:  # noqa: ANN401  # a data loader
    """Run the network over images."""
    for batch in loader:
        model.pre_processor.on_test_batch_start(None, model, batch, 0)  # type: ignore[union-attr]
        features = model.model.backbone(batch.image)
        yield Seen(batch, features, model.model.head.normal(features))


def whitening(model: Grad, loader: Any) -> Whitening:  # noqa: ANN401  # a data loader
    """Measure the residual's second moments over training images."""
    moments, count = torch.zeros(()), 0
    for seen in run_network(model, loader):
        residual = seen.features - model.model.head.refine(seen.features, seen.normal).refined
        cells = residual.transpose(0, 1).flatten(1).double()  # (C, n)
        moments, count = moments + cells @ cells.T, count + cells.shape[1]
    covariance = moments / count
    inverse = torch.linalg.inv(covariance + 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance)))
    return Whitening(covariance.diagonal().rsqrt().diag().float(), torch.linalg.cholesky(inverse).T.float())


def whitened_norm(residual: Tensor, matrix: Tensor) -> Tensor:
    """Length of ``matrix @ residual`` at every cell of ``(B, C, h, w)``: ``(B, 1, h, w)``."""
    return torch.einsum("dc,bchw->bdhw", matrix, residual).norm(dim=1, keepdim=True)


def distances(model: Grad, data: MultiCategory, *, whitened: bool) -> Distances:
    """Run the network over the test images, in float32; ``whitened`` costs a run over the training images as well."""
    model = model.eval().float().cpu()
    data.setup("test")
    white = whitening(model, data.train_dataloader())._asdict() if whitened else {}
    maps: dict[str, list[Tensor]] = defaultdict(list)
    labels, masks, categories = [], [], []
    layers = [layer.channels for layer in model.model.backbone.maps]
    for batch, features, normal in run_network(model, data.test_dataloader()):
        refined, similarity = model.model.head.refine(features, normal)
        maps["residual"].append(residual_norm(features, refined))
        maps["unrefined"].append(residual_norm(features, normal))
        maps["dissimilarity"].append(dissimilarity(similarity))
        maps["cosine"].append(layer_dissimilarity(features, normal, layers))
        maps["coarsest"].append(cosine_distance(*(own[:, -layers[-1] :] for own in (features, normal))))
        for name, matrix in white.items():
            maps[name].append(whitened_norm(features - refined, matrix))
        labels.append(batch.gt_label.bool())
        masks.append((batch.gt_mask if batch.gt_mask is not None else torch.zeros_like(batch.image[:, 0])).bool())
        categories += batch.category
    joined = {name: torch.cat(parts) for name, parts in maps.items()}
    return Distances(joined, torch.cat(labels), torch.cat(masks), categories)


def figures(model: Grad, found: Distances, scoring: dict[str, Any]) -> dict[str, float]:
    """Score as told and compare with the truth: every metric of every category and ``mean/<metric>``, in [0, 1]."""
    windows = {"smoothing_window": 21, "score_window": 32} | scoring
    distance = found.maps[windows.pop("distance", "residual")]
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
