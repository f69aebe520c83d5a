# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Results of a test over many categories: plain values, passed from the evaluator to the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

METRIC_NAMES = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AUPRO")


@dataclass(frozen=True)
class CategoryResult:
    """One row of the result table; undefined values are NaN.

    Attributes:
        category: Name of the category, ``mean`` for the last row of the table.
        n_normal: Normal test images (in the ``mean`` row: of all categories together).
        n_anomalous: Anomalous test images (in the ``mean`` row: of all categories together).
        image_AUROC: Area under the image-level ROC curve, in [0, 1].
        image_F1Max: Largest F1 over all image thresholds, in [0, 1].
        pixel_AUROC: Area under the pixel-level ROC curve, in [0, 1].
        pixel_AUPRO: Area under the per-region-overlap curve up to a false positive rate of 0.3, in [0, 1].
        threshold: Image threshold in the unit of the model's raw scores.
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
    """One test image that the report shows.

    Attributes:
        path: Path of the image.
        anomalous: Its label.
        score: Its anomaly score, as used by the metrics.
        image: (h, w, 3) uint8 thumbnail.
        anomaly_map: (h, w) float32 in [0, 1].
        mask: (h, w) bool, ``None`` if there is none.
    """

    path: str
    anomalous: bool
    score: float
    image: np.ndarray
    anomaly_map: np.ndarray
    mask: np.ndarray | None


@dataclass(frozen=True)
class CategoryRecord:
    """Data that the report draws for one category.

    Attributes:
        category: Name of the category.
        scores: (n,) image scores, as used by the metrics.
        anomalous: (n,) bool labels.
        threshold: Image threshold on the scale of ``scores``, NaN if unknown.
        raw: Raw model scores that become 0, 1 and 0.5 on the scale of ``scores``; ``None`` without normalisation.
        best: Anomalous images with the highest scores, highest first.
        worst: Anomalous images with the lowest scores, lowest first.
        false_alarms: Normal images with the highest scores, highest first.
        global_coordinates: (n, D) in [-1, 1], ``None`` for models without them.
        local_coordinates: (m, D) in [-1, 1] of sampled pixels, ``None`` for models without them.
        local_anomalous: (m,) bool, whether the sampled pixel is anomalous.
        recognised: (n,) names of the recognised categories, ``None`` if the model recognises none.
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
    """A whole test: rows of the result table, data for the figures, and notes.

    Attributes:
        model: Name of the model.
        results: One row per category, sorted by name.
        mean: Mean over the categories in which a value is defined; its threshold is NaN.
        records: Data for the figures, in the order of ``results``; categories without test images have no record.
        notes: Sentences that qualify the results.
        local_resolution: Cells per dimension of the model's local grid; ``None`` without one, or if dimensions differ.
        global_resolution: The same of its global grid.
    """

    __test__ = False  # not a test class, despite its name

    model: str
    results: list[CategoryResult]
    mean: CategoryResult
    records: list[CategoryRecord]
    notes: list[str]
    local_resolution: int | None = None
    global_resolution: int | None = None

    def defined_in(self, level: str) -> int:
        """Count the categories in the mean of a level, ``"image"`` or ``"pixel"``: those whose AUROC is defined."""
        return sum(not math.isnan(getattr(row, f"{level}_AUROC")) for row in self.results)

    @property
    def mean_of(self) -> str:
        """Number of categories in the mean: ``"4"``, ``"1 of 4"``, or ``"1 (image), 2 (pixel) of 4"``."""
        image, pixel, total = self.defined_in("image"), self.defined_in("pixel"), len(self.results)
        some = str(image) if image == pixel else f"{image} (image), {pixel} (pixel)"
        return some if image == pixel == total else f"{some} of {total}"
