# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

"""Validation scores of one category, over all processes, from which its threshold and range are fitted."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from anomalib.data import Batch
from torch import Tensor

from anomalib_grad.categories.distributed import all_gather

from .error_rates import extrapolates
from .labelled_scores import KnownImage, scores_of
from .rules import best_f1_threshold, highest_normal_threshold
from .score_histogram import ScoreHistogram


class Scores(NamedTuple):
    """Scores and labels of the images of one category in a batch."""

    pred_score: Tensor | None  # (n,)
    gt_label: Tensor | None  # (n,) bool
    anomaly_map: Tensor | None  # (n, H, W)
    gt_mask: Tensor | None  # (n, H, W) bool
    image_path: list[str] | None  # (n)


class ScoreSummary:
    """Summary of the validation scores of one category; its memory does not grow with the pixels.

    Attributes:
        counts: Numbers of images and pixels, and of anomalous ones.
        extremes: Smallest and largest score, and smallest and largest map value.
        known: Images that have a score and a label.
        pixels: Counts of normal and anomalous pixels by score.
        peaks: Largest value of the map of each normal image.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.extremes: dict[str, float] = {}
        self.known: list[KnownImage] = []
        self.pixels = ScoreHistogram()
        self.peaks: list[float] = []

    def update(self, scores: Scores) -> None:
        """Add the images of one batch."""
        levels = ("image", scores.pred_score, scores.gt_label), ("pixel", scores.anomaly_map, scores.gt_mask)
        for level, values, truth in levels:
            if truth is not None:
                self.counts[level] += truth.numel()
                self.counts["anomalous_" + level] += int(truth.sum())
            if values is not None:
                low, high = (float(value) for value in torch.aminmax(values))
                self._extend({level + "_min": low, level + "_max": high})
        if scores.gt_label is not None:
            self._add_labelled(scores, scores.gt_label.bool().tolist())
        if scores.anomaly_map is not None and scores.gt_mask is not None:
            self.pixels.update(scores.anomaly_map, scores.gt_mask.bool())

    def _add_labelled(self, scores: Scores, truths: list[bool]) -> None:
        """Add images whose labels are known."""
        maps, names = scores.anomaly_map, scores.image_path or [""] * len(truths)
        peaks = [math.nan] * len(truths) if maps is None else maps.reshape(len(maps), -1).amax(dim=1).tolist()
        if maps is not None:
            self.peaks += [peak for peak, truth in zip(peaks, truths, strict=True) if not truth]
        if scores.pred_score is not None:
            rows = zip(names, scores.pred_score.flatten().tolist(), peaks, truths, strict=True)
            self.known += [KnownImage.of(path, value, peak, anomalous=truth) for path, value, peak, truth in rows]

    def normal(self, level: str) -> list[float]:
        """Return each normal image's score (``level`` is ``"image"``) or largest map value (``"pixel"``)."""
        return scores_of(self.known, anomalous=False) if level == "image" else self.peaks

    def merge(self, other: "ScoreSummary") -> None:
        """Add another process's summary of the category."""
        self.counts.update(other.counts)
        self._extend(other.extremes)
        self.known += other.known
        self.peaks += other.peaks
        self.pixels.merge(other.pixels)

    def best_f1_threshold(self, level: str) -> float:
        """Return the raw threshold of best F1; without anomalous samples the highest score or slightly more.

        It lies below the lowest score to be called anomalous, since labels require a score above the threshold.

        Returns:
            The threshold; nan if there is nothing to fit it on.
        """
        total, anomalous = self.counts[level], self.counts["anomalous_" + level]
        if not total or level + "_max" not in self.extremes:
            return float("nan")
        if not anomalous:
            return highest_normal_threshold([self.extremes[level + "_max"]])
        if level == "pixel":
            return self.pixels.best_f1_threshold()
        return best_f1_threshold([image.score for image in self.known], [image.anomalous for image in self.known])

    def extrapolation(self, rate: float) -> str | None:
        """Say which false alarm rates the normal images are too few for, if ``rate`` is one of them; else ``None``."""
        normal = len(self.normal("image"))
        if normal == 0 or not extrapolates(rate, normal):
            return None
        shown = f"{1 / (normal + 1):.2g}"
        return f"only {normal} normal validation images, from which a false_alarm_rate below {shown} is extrapolated"

    def shortage(self) -> str | None:
        """Say what the data lack for thresholds of best F1, and which rule fills the gap; ``None`` if they suffice."""
        image, pixel = self.has_scores("image"), self.has_scores("pixel")
        if image and not self.counts["anomalous_image"]:
            return "no anomalous validation images, so the highest normal score is the threshold"
        return None if image and pixel else "no validation masks, so the pooled threshold judges its pixels"

    def _extend(self, extremes: dict[str, float]) -> None:
        for name, value in extremes.items():
            extreme = min if name.endswith("_min") else max
            self.extremes[name] = extreme(value, self.extremes.get(name, value))

    def has_scores(self, level: str) -> bool:
        """Tell whether a threshold can be fitted: there are labelled scores, and masks show the anomalies."""
        if not self.counts[level] or level + "_max" not in self.extremes:
            return False
        masks_are_missing = self.counts["anomalous_image"] and not self.counts["anomalous_pixel"]
        return level == "image" or not masks_are_missing


def gather_summaries(local: dict[str, ScoreSummary]) -> dict[str, ScoreSummary]:
    """Return the summary of each category over all processes, sorted by name, the same in each process."""
    parts = all_gather(local)
    names = sorted({name for part in parts for name in part})
    return {name: merge_all(part[name] for part in parts if name in part) for name in names}


def merge_all(summaries: Iterable[ScoreSummary]) -> ScoreSummary:
    """Merge summaries into one."""
    joined = ScoreSummary()
    for summary in summaries:
        joined.merge(summary)
    return joined


def select(batch: Batch, rows: list[int]) -> Scores:
    """Return scores and labels of some images of a batch, without copying if they are all of it."""
    fields: list[Any] = [getattr(batch, name, None) for name in Scores._fields]
    return Scores(*(field if field is None or len(rows) == len(field) else _rows(field, rows) for field in fields))


def _rows(field: Any, rows: list[int]) -> Any:  # noqa: ANN401  # a tensor or a list
    return [field[row] for row in rows] if isinstance(field, list) else field[rows]
