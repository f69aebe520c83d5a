# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Collector of the report's data: scores, coordinates and example images, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from anomalib.data import ImageBatch
from torch import Tensor

from anomalib_grad.data.read_or_refuse import DEFAULT_FORMAT, FileFormat
from anomalib_grad.report.records import CategoryRecord

from .coordinates import GLOBAL, LOCAL, LocalSample, sample_local
from .examples import TopExamples, candidate, load_example


@dataclass(frozen=True)
class ImageLog:
    """Data kept for each image."""

    path: str
    score: float
    anomalous: bool
    recognised: str | None
    global_coordinates: np.ndarray | None
    local: LocalSample | None


@dataclass
class CategoryLog:
    """Data that one process keeps for one category."""

    images: list[ImageLog] = field(default_factory=list)
    best: TopExamples = field(default_factory=lambda: TopExamples(highest=True))
    worst: TopExamples = field(default_factory=lambda: TopExamples(highest=False))
    false_alarms: TopExamples = field(default_factory=lambda: TopExamples(highest=True))
    lowest: float = math.inf
    highest: float = -math.inf
    ignores: bool = False

    def merge(self, other: CategoryLog) -> None:
        """Add the data of another process."""
        self.images += other.images
        self.best.add(*other.best.candidates)
        self.worst.add(*other.worst.candidates)
        self.false_alarms.add(*other.false_alarms.candidates)
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)
        self.ignores |= other.ignores


@dataclass
class Collector:
    """Keeps score, label and coordinates of each image, and twelve candidate examples of each category.

    That is about 1 kB per image for models with coordinates, and at most 1 MB per category.

    Attributes:
        files: Image format settings that the files themselves do not contain.
        logs: Collected data by category.
        split_forward: Whether the model processed some batch in several pieces, so that its coordinates are unknown.
    """

    files: FileFormat = DEFAULT_FORMAT
    logs: dict[str, CategoryLog] = field(default_factory=dict)
    split_forward: bool = False

    def update(
        self, batch: ImageBatch, coordinates: Mapping[str, Tensor], keep: int, ignored: Tensor | None = None
    ) -> None:
        """Add the first images of a batch.

        Args:
            batch: Post-processed batch with ``category``, labels and scores.
            coordinates: Result of :meth:`CoordinateTap.take` for the batch.
            keep: Number of leading images to add.
            ignored: Ignored pixels, bool, shape (B, H, W), if there are any.
        """
        if any(len(value) != len(batch) for value in coordinates.values()):
            self.split_forward, coordinates = True, {}
        for index in range(keep):
            own = None if ignored is None else ignored[index]
            self._add(batch, index, {name: value[index] for name, value in coordinates.items()}, own)

    def merge(self, others: Iterable[Collector]) -> None:
        """Add the data of other processes."""
        for other in others:
            self.split_forward |= other.split_forward
            for category, log in other.logs.items():
                self.logs.setdefault(category, CategoryLog()).merge(log)

    def record(
        self, category: str, threshold: float, normalized: bool, raw: tuple[float, float, float] | None = None
    ) -> CategoryRecord:
        """Build the report's record of a category from the collected data.

        Args:
            category: Name of the category.
            threshold: Image threshold on the scale of the scores, NaN if unknown.
            normalized: Whether anomaly maps are already in [0, 1]; if not, the category's own range becomes [0, 1].
            raw: Raw model scores that were normalised to 0, 1 and 0.5; ``None`` without normalisation.

        Returns:
            The record; images are in the order of their paths.

        Raises:
            FileNotFoundError: If the file of an example no longer exists.
        """
        log = self.logs.get(category, CategoryLog())
        images = sorted(log.images, key=lambda image: image.path)
        value_range = (0.0, 1.0) if normalized else (log.lowest, log.highest)
        examples = {
            name: [load_example(found, *value_range, self.files) for found in top.candidates]
            for name, top in (("best", log.best), ("worst", log.worst), ("false_alarms", log.false_alarms))
        }
        samples = [image.local for image in images if image.local is not None]
        return CategoryRecord(
            category=category,
            scores=np.array([image.score for image in images], dtype=float),
            anomalous=np.array([image.anomalous for image in images], dtype=bool),
            threshold=threshold,
            raw=raw,
            **examples,
            global_coordinates=_stack([image.global_coordinates for image in images]),
            local_coordinates=np.concatenate([s.coordinates for s in samples]) if samples else None,
            local_anomalous=np.concatenate([s.anomalous for s in samples]) if samples else None,
            recognised=_stack([None if i.recognised is None else np.array(i.recognised) for i in images]),
        )

    def _add(self, batch: ImageBatch, index: int, coordinates: Mapping[str, Tensor], ignored: Tensor | None) -> None:
        path = "" if batch.image_path is None else str(batch.image_path[index])
        score = float(batch.pred_score[index])  # type: ignore[index]  # the evaluator has checked both
        anomalous = bool(batch.gt_label[index])  # type: ignore[index]
        mask = None if batch.gt_mask is None else batch.gt_mask[index]
        whole, local = coordinates.get(GLOBAL), coordinates.get(LOCAL)
        log = self.logs.setdefault(batch.category[index], CategoryLog())  # type: ignore[attr-defined]
        log.ignores |= ignored is not None and bool(ignored.any())
        log.images.append(
            ImageLog(
                path=path,
                score=score,
                anomalous=anomalous,
                recognised=None if batch.explanation is None else str(batch.explanation[index]),
                global_coordinates=None if whole is None else whole.flatten().float().cpu().numpy(),
                local=None if local is None else sample_local(local, mask, path),
            )
        )
        if batch.anomaly_map is None or not path:
            return
        anomaly_map = batch.anomaly_map[index]
        log.lowest = min(log.lowest, float(anomaly_map.min()))
        log.highest = max(log.highest, float(anomaly_map.max()))
        rankings = (log.best, log.worst) if anomalous else (log.false_alarms,)
        admitting = [top for top in rankings if top.admits(score, path)]
        if admitting:
            found = candidate(path, anomalous, score, anomaly_map, mask, ignored)
            for top in admitting:
                top.add(found)


def _stack(values: list[np.ndarray | None]) -> np.ndarray | None:
    """Stack one value per image, n x (...) -> (n, ...); return ``None`` unless every image has one."""
    found = [value for value in values if value is not None]
    return np.stack(found) if found and len(found) == len(values) else None
