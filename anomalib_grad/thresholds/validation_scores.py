# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

"""Validation scores of one category, over all processes, from which its threshold and range are fitted."""

import math
from collections.abc import Iterable

import torch
from anomalib.data import Batch
from torch import Tensor

from anomalib_grad.categories.distributed import all_gather

from .error_rates import extrapolates
from .labelled_scores import KnownImage, scores_of
from .rules import BEST_F1, HIGHEST_NORMAL, Fit, best_f1_threshold, fit, highest_normal_threshold
from .score_histogram import ScoreHistogram


class ScoreSummary:
    """Summary of the validation scores of one category; its memory does not grow with the pixels.

    Attributes:
        extremes: Smallest and largest score, and smallest and largest map value.
        known: Images that have a score and a label.
        pixels: Counts of normal and anomalous pixels by score.
    """

    def __init__(self) -> None:
        self.extremes: dict[str, float] = {}
        self.known: list[KnownImage] = []
        self.pixels = ScoreHistogram()

    def update(self, batch: Batch, rows: list[int]) -> None:
        """Add some images of a batch."""

        def of_rows(name: str) -> Tensor | None:
            values: Tensor | None = getattr(batch, name, None)
            return values if values is None or len(rows) == len(values) else values[rows]  # all of them without a copy

        scores, truths, maps, masks = map(of_rows, ("pred_score", "gt_label", "anomaly_map", "gt_mask"))
        for level, values in (("image", scores), ("pixel", maps)):
            if values is not None:
                low, high = (float(value) for value in torch.aminmax(values))
                self._extend({f"{level}_min": low, f"{level}_max": high})
        if maps is not None and masks is not None:
            self.pixels.update(maps, masks.bool())
        if scores is None or truths is None:
            return
        paths = getattr(batch, "image_path", None)
        peaks = [math.nan] * len(rows) if maps is None else maps.reshape(len(maps), -1).amax(dim=1).tolist()
        for row, score, peak, truth in zip(rows, scores.flatten().tolist(), peaks, truths.tolist(), strict=True):
            self.known.append(KnownImage.of(paths[row] if paths else "", score, peak, anomalous=bool(truth)))

    def merge(self, other: "ScoreSummary") -> None:
        """Add another process's summary of the category."""
        self._extend(other.extremes)
        self.known += other.known
        self.pixels.merge(other.pixels)

    @property
    def has_anomalies(self) -> bool:
        """Whether an image is anomalous."""
        return any(image.anomalous for image in self.known)

    @property
    def shows_anomalies(self) -> bool:
        """Whether there are masks, in which the anomalies of the images are marked."""
        return len(self.pixels.counts) > 0 and (self.pixels.has_anomalies or not self.has_anomalies)

    def fit(self, rate: float | None) -> Fit:
        """Fit thresholds of a false alarm rate, or else of best F1; without anomalies just above the highest score.

        Those of best F1 lie below the lowest score to be called anomalous, since labels require a score above the
        threshold.

        Returns:
            The thresholds; nan for one that there is nothing to fit on.
        """
        if rate is not None:
            return fit(self.known, rate)
        image = pixel = math.nan
        if self.has_anomalies:
            image = best_f1_threshold([one.score for one in self.known], [one.anomalous for one in self.known])
        elif self.known:
            image = highest_normal_threshold([self.extremes["image_max"]])
        if self.pixels.has_anomalies:
            pixel = self.pixels.best_f1_threshold()
        elif len(self.pixels.counts):
            pixel = highest_normal_threshold([self.extremes["pixel_max"]])
        return Fit(image, pixel, BEST_F1 if self.has_anomalies else HIGHEST_NORMAL)

    def extrapolation(self, rate: float) -> str | None:
        """Say which false alarm rates the normal images are too few for, if ``rate`` is one of them; else ``None``."""
        normal = len(scores_of(self.known, anomalous=False))
        if normal == 0 or not extrapolates(rate, normal):
            return None
        shown = f"{1 / (normal + 1):.2g}"
        return f"only {normal} normal validation images, from which a false_alarm_rate below {shown} is extrapolated"

    def shortage(self) -> str | None:
        """Say what the data lack for thresholds of best F1, and which rule fills the gap; ``None`` if they suffice."""
        if self.known and not self.has_anomalies:
            return "no anomalous validation images, so the highest normal score is the threshold"
        return None if self.shows_anomalies else "no validation masks, so the pooled threshold judges its pixels"

    def _extend(self, extremes: dict[str, float]) -> None:
        for name, value in extremes.items():
            extreme = min if name.endswith("_min") else max
            self.extremes[name] = extreme(value, self.extremes.get(name, value))


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
