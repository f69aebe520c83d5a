# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a test over many categories leaves behind: plain values, handed from the evaluator to the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

METRIC_NAMES = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AUPRO")


@dataclass(frozen=True)
class CategoryResult:
    """One row of the result table; nan where a value is not defined.

    Attributes:
        category: Name of the category, ``mean`` for the last row of the table.
        n_normal: Normal test images (in the ``mean`` row: of all categories together).
        n_anomalous: Anomalous test images (in the ``mean`` row: of all categories together).
        image_AUROC: Area under the image-level ROC curve, in [0, 1].
        image_F1Max: Largest F1 over all image thresholds, in [0, 1].
        pixel_AUROC: Area under the pixel-level ROC curve, in [0, 1].
        pixel_AUPRO: Area under the per-region-overlap curve up to a false positive rate of 0.3, in [0, 1].
        threshold: Image threshold on the scale of the model's raw scores.
    """

    category: str
    n_normal: int
    n_anomalous: int
    image_AUROC: float  # noqa: N815 - the metric's name, and the column's
    image_F1Max: float  # noqa: N815
    pixel_AUROC: float  # noqa: N815
    pixel_AUPRO: float  # noqa: N815
    threshold: float


@dataclass(frozen=True)
class Example:
    """One test image worth looking at.

    Attributes:
        path: The image's file.
        anomalous: Its label.
        score: Its anomaly score, as the metrics saw it.
        image: (h, w, 3) uint8 thumbnail.
        anomaly_map: (h, w) float32 in [0, 1].
        mask: (h, w) bool, ``None`` where there is none.
    """

    path: str
    anomalous: bool
    score: float
    image: np.ndarray
    anomaly_map: np.ndarray
    mask: np.ndarray | None


@dataclass(frozen=True)
class CategoryRecord:
    """What the report draws for one category.

    Attributes:
        category: Name of the category.
        scores: (n,) image scores as the metrics saw them.
        anomalous: (n,) bool labels.
        threshold: Image threshold on the scale of ``scores``, nan if unknown.
        raw: Scores of the model that stand for 0, 1 and 0.5 on the scale of ``scores``; ``None`` without such a scale.
        best: Anomalous images with the highest scores, highest first.
        worst: Anomalous images with the lowest scores, lowest first.
        false_alarms: Normal images with the highest scores, highest first.
        global_coordinates: (n, D) in [-1, 1], ``None`` for models without them.
        local_coordinates: (m, D) in [-1, 1] of sampled pixels, ``None`` for models without them.
        local_anomalous: (m,) bool, whether the sampled pixel is anomalous.
        recognised: (n,) names of the categories that the model took the images for, ``None`` where it does not
            recognise.
    """

    category: str
    scores: np.ndarray
    anomalous: np.ndarray
    threshold: float
    best: list[Example]
    worst: list[Example]
    false_alarms: list[Example]
    global_coordinates: np.ndarray | None
    local_coordinates: np.ndarray | None
    local_anomalous: np.ndarray | None
    recognised: np.ndarray | None
    raw: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class TestReport:
    """A whole test: the table's rows, what the pictures need, and remarks in words.

    Attributes:
        model: Name of the model.
        results: One row a category, sorted by name.
        mean: Mean over the categories in which the value is defined; its threshold is nan.
        records: What to draw, in the order of ``results``; a category without any test image has none.
        notes: Sentences that a reader of the numbers should know.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    model: str
    results: list[CategoryResult]
    mean: CategoryResult
    records: list[CategoryRecord]
    notes: list[str]

    def defined_in(self, level: str) -> int:
        """Count the categories that have metrics of a level, ``"image"`` or ``"pixel"``: the mean is of them."""
        return sum(not math.isnan(getattr(row, f"{level}_AUROC")) for row in self.results)

    @property
    def mean_of(self) -> str:
        """Of how many of the categories the mean is: ``"4"``, ``"1 of 4"``, or ``"1 (image), 2 (pixel) of 4"``."""
        image, pixel, total = self.defined_in("image"), self.defined_in("pixel"), len(self.results)
        some = str(image) if image == pixel else f"{image} (image), {pixel} (pixel)"
        return some if image == pixel == total else f"{some} of {total}"
