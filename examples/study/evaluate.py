# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a trained model with several scoring methods, also on degraded test images."""

import sys
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import Batch
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.anomaly_map import AnomalyMapGenerator
from anomalib_grad.components.normal_scale import NormalScale
from anomalib_grad.evaluation.metrics import CategoryMetrics, Predictions, mean_over_categories
from anomalib_grad.report.records import METRIC_NAMES
from anomalib_grad.training.feature_statistics import SCALE_IMAGES, evenly_spaced

sys.path.append(str(Path(__file__).parents[1] / "compare"))  # also for storing, which __main__ imports
from nearest import distance_to, unit_cells

BINS = 4000
NEIGHBOURS = 20_000
"""Number of training cells with which each cell of a test image is compared."""


def shifted(images: Tensor) -> Tensor:
    """Shift images ``(B, 3, H, W)`` by 2 % of their sides; edge pixels are repeated."""
    down, right = (round(0.02 * side) for side in images.shape[-2:])
    padded = functional.pad(images, (right, 0, down, 0), mode="replicate")
    return padded[..., : images.shape[-2], : images.shape[-1]]


def blurred(images: Tensor) -> Tensor:
    """Blur images slightly, with a standard deviation of 0.2 % of the longer side."""
    sigma = max(images.shape[-2:]) / 450
    return transforms.gaussian_blur(images, kernel_size=2 * int(3 * sigma) + 3, sigma=sigma)


STRESSES: dict[str, Callable[[Tensor], Tensor]] = {
    "darker": lambda images: 0.92 * images,
    "brighter": lambda images: (1.08 * images).clamp(max=1),
    "blurred": blurred,
    "shifted": shifted,
}
"""Changes of test images as by lighting, lens and conveyor."""

Sample = list[tuple[Tensor, list[int]]]
"""Batches of features ``(B, C, h, w)`` of training images, and the indices of their categories."""
Scorer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps features ``(B, C, h, w)`` and category indices ``(B,)`` to maps ``(B, 1, H, W)`` and scores ``(B,)``."""


def prepared(model: Grad, loader: Any, change: Callable[[Tensor], Tensor] | None = None) -> Iterator[Batch]:  # noqa: ANN401  # a data loader
    """Yield pre-processed batches; ``change`` is applied to the images before."""
    for batch in loader:
        if change is not None:
            batch.image = change(batch.image)
        model.pre_processor.on_test_batch_start(None, model, batch, 0)  # type: ignore[union-attr]
        yield batch


def training_sample(model: Grad, data: MultiCategory) -> Sample:
    """Return backbone features of at most 100 training images per category, with category indices."""
    names = list(data.train_data.samples["category"])
    rows = [evenly_spaced([i for i, own in enumerate(names) if own == name], SCALE_IMAGES) for name in data.categories]
    chosen = torch.utils.data.Subset(data.train_data, [index for own in rows for index in own])
    loader = torch.utils.data.DataLoader(chosen, batch_size=16, collate_fn=data.train_data.collate_fn)
    with torch.no_grad():
        return [
            (model.model.backbone(batch.image), [data.categories.index(name) for name in batch.category])
            for batch in prepared(model, loader)
        ]


@torch.no_grad()
def network_scorer(model: Grad, scoring: dict[str, Any], sample: Sample) -> Scorer:
    """Return a scorer with the model's own network and other settings of the map."""
    network, settings = deepcopy(model.model), replace(model.settings.map, **scoring)
    network.distance = settings.distance
    network.anomaly_map_generator = AnomalyMapGenerator(
        network.backbone.feature_size,
        network.backbone.image_size,
        settings.smoothing_window,
        settings.score_window,
        settings.score_share,
    )
    network.normal_scale = None
    if settings.scaled:
        scores: dict[int | None, list[Tensor]] = {}
        for features, indices in sample:
            for index, own in zip(indices, network(features=features).pred_score, strict=True):
                scores.setdefault(index, []).append(own)
        network.normal_scale = NormalScale()
        network.normal_scale.fit({index: torch.stack(own) for index, own in scores.items()}, len(scores))

    def score(features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        prediction = network(features=features, category=indices)
        return prediction.anomaly_map, prediction.pred_score

    return score


def nearest_scorer(model: Grad, sample: Sample) -> Scorer:
    """Return a scorer by cosine distance to the nearest training cell: a baseline on the features, without a head."""
    rows = torch.cat([unit_cells(features).flatten(0, 1) for features, _ in sample])
    known = rows[torch.randperm(len(rows))[:NEIGHBOURS]]

    def score(features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        del indices
        distances = [distance_to(known, image) for image in features.split(1)]  # one by one to save memory
        return model.model.anomaly_map_generator(torch.cat(distances))

    return score


class TestBatch(NamedTuple):
    """Features and ground truth of a test batch."""

    features: Tensor  # (B, C, h, w)
    categories: list[str]
    labels: Tensor  # (B,) bool
    masks: Tensor | None  # (B, H, W) bool


TEST_BATCHES: dict[tuple[Any, ...], list[TestBatch]] = {}
"""Cache of test features, shared by all trainings with the same features."""


def compute_test_batches(model: Grad, data: MultiCategory, stress: str | None) -> list[TestBatch]:
    """Return the features of the test images, computed on the first call only."""
    backbone = model.model.backbone
    key = (data.root, backbone.name, *backbone.layers, backbone.image_size, backbone.feature_size, stress)
    if key not in TEST_BATCHES:
        TEST_BATCHES[key] = [
            TestBatch(backbone(batch.image).half(), batch.category, batch.gt_label.bool(), masks_of(batch, model))
            for batch in prepared(model, data.test_dataloader(), STRESSES.get(stress or ""))
        ]
    return TEST_BATCHES[key]


def masks_of(batch: Batch, model: Grad) -> Tensor | None:
    """Return masks ``(B, H, W)`` at the size of the anomaly maps, or ``None`` if there are none."""
    if batch.gt_mask is None:
        return None
    return functional.interpolate(batch.gt_mask[:, None].float(), model.model.backbone.image_size)[:, 0].bool()


@torch.no_grad()
def figures(model: Grad, data: MultiCategory, scorer: Scorer, *, stressed: bool) -> dict[str, float]:
    """Compute metrics on the test images, and if ``stressed``, also on degraded ones.

    Returns:
        ``category/metric``, ``mean/metric``, ``category/stress/image_AUROC``, the mean F1 with one threshold per
        category and with one for all, and the image AUROC of all categories pooled; all in [0, 1].
    """
    plain = compute_test_batches(model, data, None)
    results = accuracy(plain, judged(plain, scorer, data))
    for stress in STRESSES if stressed else ():
        batches = compute_test_batches(model, data, stress)
        scores = torch.cat([scores for _, scores in judged(batches, scorer, data)])
        for category, (own, labels) in by_category(batches, scores).items():
            results[f"{category}/{stress}/image_AUROC"] = float(roc_auc_score(labels, own))
    return results


def judged(batches: list[TestBatch], scorer: Scorer, data: MultiCategory) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield maps and scores of batches."""
    for batch in batches:
        yield scorer(batch.features.float(), torch.tensor([data.categories.index(name) for name in batch.categories]))


def by_category(batches: list[TestBatch], scores: Tensor) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return scores and labels by category."""
    names = np.array([name for batch in batches for name in batch.categories])
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    return {name: (scores.numpy()[names == name], labels[names == name]) for name in sorted(set(names))}


def accuracy(batches: list[TestBatch], found: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return every metric of every category, their means, and the values of :func:`thresholds`."""
    metrics, every_score, middle = CategoryMetrics(binned=BINS), [], None
    for batch, (maps, scores) in zip(batches, found, strict=True):
        every_score.append(scores)
        middle = maps.median() if middle is None else middle
        squeezed = maps[:, 0] / (maps[:, 0] + middle)  # binned metrics need [0, 1]; this keeps the order
        for name in sorted(set(batch.categories)):
            rows = torch.tensor([own == name for own in batch.categories])
            masks = None if batch.masks is None else batch.masks[rows]
            pixels = (None, None) if masks is None else (squeezed[rows], masks)
            metrics.update(name, Predictions(scores[rows], batch.labels[rows], *pixels))
    computed = metrics.compute(metrics.gather_counts())
    values = {
        f"{category}/{name}": own[name]
        for category, own in {**computed, "mean": mean_over_categories(list(computed.values()))}.items()
        for name in METRIC_NAMES
    }
    return values | thresholds(list(by_category(batches, torch.cat(every_score)).values()))


def thresholds(products: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Return mean F1 with each product's best threshold and with the best shared one, and the pooled image AUROC."""
    own = []
    for scores, labels in products:
        precision, recall, _ = precision_recall_curve(labels, scores)
        own.append(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-9)))
    everything = np.concatenate([scores for scores, _ in products])
    shared = max(
        np.mean([f1_score(labels, scores >= threshold) for scores, labels in products])
        for threshold in np.quantile(everything, np.linspace(0, 1, 200))
    )
    pooled = roc_auc_score(np.concatenate([labels for _, labels in products]), everything)
    return {"own/image_F1": float(np.mean(own)), "shared/image_F1": float(shared), "pooled/image_AUROC": float(pooled)}
