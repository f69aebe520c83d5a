# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Per-category metrics: one set of anomalib's metrics for each category."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.metrics import AUPRO, AUROC, F1Max
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import MetricCollection

from anomalib_grad.categories.distributed import all_gather
from anomalib_grad.report.records import METRIC_NAMES

from .binned import BinnedPixelCurves

logger = logging.getLogger(__name__)

IMAGE_FIELDS = ("pred_score", "gt_label")
PIXEL_FIELDS = ("anomaly_map", "gt_mask")
_LABELS = {"pred_label", "pred_mask"}


@dataclass(frozen=True)
class Predictions:
    """Predictions and ground truth of images of one category, under anomalib's field names.

    Attributes:
        pred_score: (B,) float image scores.
        gt_label: (B,) bool.
        anomaly_map: (B, H, W) float, ``None`` for models without one.
        gt_mask: (B, H, W) bool, ``None`` for data without masks.
    """

    pred_score: Tensor
    gt_label: Tensor
    anomaly_map: Tensor | None = None
    gt_mask: Tensor | None = None

    def to(self, device: torch.device) -> Predictions:
        """Move every tensor to a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    @classmethod
    def empty(cls, map_size: tuple[int, int] | None, device: torch.device) -> Predictions:
        """Build predictions for zero images."""
        image = torch.zeros(0, device=device)
        if map_size is None:
            return cls(image, image.bool())
        pixels = torch.zeros(0, *map_size, device=device)
        return cls(image, image.bool(), pixels, pixels.bool())


@dataclass(frozen=True)
class Counts:
    """Numbers of images and pixels seen of one category.

    Attributes:
        n_normal: Normal images.
        n_anomalous: Anomalous images.
        n_unmarked: Anomalous images whose mask is missing or empty.
        marked_pixels: Anomalous pixels.
        normal_pixels: Pixels outside the masks, in images that have an anomaly map and a mask.
        map_size: Height and width of the anomaly maps, ``None`` if no pixel was seen.
    """

    n_normal: int = 0
    n_anomalous: int = 0
    n_unmarked: int = 0
    marked_pixels: int = 0
    normal_pixels: int = 0
    map_size: tuple[int, int] | None = None

    def __add__(self, other: Counts) -> Counts:
        """Add the counts of two sets of images."""
        numbers = {name: value + getattr(other, name) for name, value in vars(self).items() if name != "map_size"}
        return Counts(**numbers, map_size=self.map_size or other.map_size)

    @property
    def ranks_images(self) -> bool:
        """Whether the image metrics are defined."""
        return self.n_normal > 0 and self.n_anomalous > 0

    @property
    def ranks_pixels(self) -> bool:
        """Whether the pixel metrics are defined."""
        return self.marked_pixels > 0 and self.normal_pixels > 0


def count(predictions: Predictions) -> Counts:
    """Count the images and pixels of a batch."""
    anomalous = predictions.gt_label.bool()
    images = Counts(n_normal=int((~anomalous).sum()), n_anomalous=int(anomalous.sum()))
    if predictions.gt_mask is None or predictions.anomaly_map is None:
        return replace(images, n_unmarked=images.n_anomalous)
    marked = predictions.gt_mask.flatten(1).sum(1)  # (B,)
    return replace(
        images,
        n_unmarked=int((anomalous & (marked == 0)).sum()),
        marked_pixels=int(marked.sum()),
        normal_pixels=int(predictions.gt_mask.numel() - marked.sum()),
        map_size=(predictions.anomaly_map.shape[-2], predictions.anomaly_map.shape[-1]),
    )


class CategoryMetrics:
    """Image AUROC, image F1Max, pixel AUROC and pixel AUPRO of every category.

    torchmetrics keeps the states and synchronises them across processes. A process that has seen no image of a category
    takes part with empty states.

    The metrics belong to no ``nn.Module``, so that no checkpoint depends on the tested categories.

    Args:
        binned: Number of bins of the pixel metrics; ``None`` keeps every pixel and is exact.
        device: Device of the states.
    """

    def __init__(self, binned: int | None = None, device: torch.device | str = "cpu") -> None:
        self.binned = binned
        self.device = torch.device(device)
        self.counts: dict[str, Counts] = {}
        self._image: dict[str, MetricCollection] = {}
        self._pixel: dict[str, MetricCollection] = {}

    def update(self, category: str, predictions: Predictions) -> None:
        """Add images of one category.

        Raises:
            ValueError: If pixel metrics are binned and an anomaly map has values outside [0, 1].
        """
        predictions = predictions.to(self.device)
        self.counts[category] = self.counts.get(category, Counts()) + count(predictions)
        self._update(category, predictions)

    def gather_counts(self, categories: Iterable[str] = ()) -> dict[str, Counts]:
        """Sum the counts of all processes by category, sorted by name, including ``categories``; a collective call."""
        seen = all_gather(self.counts)
        names = {*categories, *(name for counts in seen for name in counts)}
        return {name: sum((counts.get(name, Counts()) for counts in seen), Counts()) for name in sorted(names)}

    def compute(self, counts: Mapping[str, Counts]) -> dict[str, dict[str, float]]:
        """Compute every metric of every category and drop the states; a collective call.

        Returns:
            Category -> metric -> value in [0, 1]. Image metrics are NaN without normal or without anomalous images,
            pixel metrics without normal or without anomalous pixels.
        """
        values = {}
        for category, total in counts.items():
            own = self.counts.get(category, Counts())
            if (own.n_normal + own.n_anomalous == 0) or (own.map_size is None and total.map_size is not None):
                # torchmetrics fills a missing state with a 1-d float tensor, which fits neither masks nor maps.
                self._update(category, Predictions.empty(total.map_size, self.device))
            found = dict.fromkeys(METRIC_NAMES, math.nan)
            if total.ranks_images:
                found |= self._image[category].compute()
            if total.ranks_pixels:
                found |= self._pixel[category].compute()
            del self._image[category], self._pixel[category]
            values[category] = {name: float(value) for name, value in found.items()}
        return values

    def _update(self, category: str, predictions: Predictions) -> None:
        if category not in self._image:
            # normalization=None avoids the sigmoid that torchmetrics applies, batch by batch, to scores outside [0, 1].
            self._image[category] = self._collection(
                image_AUROC=AUROC(fields=IMAGE_FIELDS, normalization=None), image_F1Max=F1Max(fields=IMAGE_FIELDS)
            )
            self._pixel[category] = (
                self._collection(
                    pixel_AUROC=AUROC(fields=PIXEL_FIELDS, normalization=None), pixel_AUPRO=AUPRO(fields=PIXEL_FIELDS)
                )
                if self.binned is None
                else self._collection(pixel=BinnedPixelCurves(bins=self.binned))
            )
        self._image[category].update(predictions)
        if predictions.anomaly_map is not None and predictions.gt_mask is not None:
            self._pixel[category].update(predictions)

    def _collection(self, **metrics: Any) -> MetricCollection:  # noqa: ANN401  # anomalib's, which are torchmetrics'
        return MetricCollection(metrics, compute_groups=False).to(self.device)


def mean_over_categories(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over the categories in which it is defined; NaN if there are none."""
    defined = {name: [v[name] for v in values if not math.isnan(v[name])] for name in METRIC_NAMES}
    return {name: sum(found) / len(found) if found else math.nan for name, found in defined.items()}


class RankRawScores(Callback):
    """Makes metrics rank scores without a sigmoid.

    Validation has raw scores, since thresholds and ranges are known only after it. torchmetrics treats scores outside
    [0, 1] as logits and applies a sigmoid, batch by batch. Raw scores far above 1 all become 1 in float32, so the AUROC
    is 0.5 for any model.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Switch the sigmoid off in all metrics of the model and the callbacks."""
        owners = [owner for owner in (pl_module, *trainer.callbacks) if isinstance(owner, nn.Module)]  # type: ignore[attr-defined]
        for module in (module for owner in owners for module in owner.modules()):
            if getattr(module, "normalization", None) == "sigmoid":
                vars(module)["normalization"] = None  # a plain attribute, whatever types PyTorch states for them


class LeaveOutMetricsOfLabels(Callback):
    """Leaves out of a model's evaluator what needs labels or masks, if the model's post-processor makes none.

    anomalib's default evaluator has such metrics, and would stop the test after the training.
    """

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ANN401  # a model of anomalib's
        """Leave them out, and name them."""
        evaluator, post_processor = pl_module.evaluator, pl_module.post_processor
        judges = post_processor is not None and getattr(post_processor, "enable_thresholding", True)
        if judges or evaluator is None:
            return
        left_out = [metric.name for metric in evaluator.test_metrics if not _LABELS.isdisjoint(metric.fields)]
        if left_out:
            logger.warning("Labels are switched off, so these figures are not computed: %s.", ", ".join(left_out))
            kept = [metric for metric in evaluator.test_metrics if _LABELS.isdisjoint(metric.fields)]
            evaluator.test_metrics = nn.ModuleList(kept)
