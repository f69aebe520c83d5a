# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

"""Validation scores of one category, from which its threshold and range are fitted, over all processes together."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from anomalib.data import Batch
from anomalib.metrics import F1AdaptiveThreshold, MinMax
from torch import Tensor

from anomalib_grad.evaluation.distributed import all_gather
from anomalib_grad.evaluation.false_alarms import false_alarm_threshold


class Scores(NamedTuple):
    """The fields of a batch that anomalib's threshold metric reads, for the images of one category."""

    pred_score: Tensor | None  # (n,)
    gt_label: Tensor | None  # (n,) bool
    anomaly_map: Tensor | None  # (n, H, W)
    gt_mask: Tensor | None  # (n, H, W) bool

    def as_batch(self) -> Batch:
        """The same for anomalib's metrics, which read nothing but these fields."""
        return cast("Batch", self)


class ScoreSummary:
    """Counts and extremes of the scores of one category, and the scores of its normal images.

    Attributes:
        counts: Images and pixels, and anomalous ones.
        extremes: Smallest and largest score, and value of the maps.
        images: Score of each image.
        normal: Score of each normal image, and the largest value of its map.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.extremes: dict[str, float] = {}
        self.images: list[float] = []
        self.normal: dict[str, list[float]] = {"image": [], "pixel": []}

    def update(self, scores: Scores) -> None:
        """Take in the images of one batch."""
        for level, truth in (("image", scores.gt_label), ("pixel", scores.gt_mask)):
            if truth is not None:
                self.counts[level] += truth.numel()
                self.counts["anomalous_" + level] += int(truth.sum())
        for level, values in (("image", scores.pred_score), ("pixel", scores.anomaly_map)):
            if values is not None:
                low, high = (float(value) for value in torch.aminmax(values))
                self._extend({level + "_min": low, level + "_max": high})
                if scores.gt_label is not None:
                    largest = values.reshape(len(values), -1)[~scores.gt_label.bool()].amax(dim=1)  # (normal images,)
                    self.normal[level] += largest.tolist()
        if scores.pred_score is not None:
            self.images += scores.pred_score.flatten().tolist()

    def merge(self, other: "ScoreSummary") -> None:
        """Take in what another process saw of the category."""
        self.counts.update(other.counts)
        self._extend(other.extremes)
        self.images += other.images
        for level, scores in other.normal.items():
            self.normal[level] += scores

    def below(self, threshold: float) -> float:
        """Middle between an image threshold of best F1 and the next lower score.

        The threshold is itself the lowest score that counts as anomalous, but labels ask for more than the threshold.
        """
        lower = [score for score in self.images if score < threshold]
        return (threshold + max(lower)) / 2 if lower else threshold

    def false_alarm_threshold(self, level: str, rate: float) -> float:
        """Threshold that a share ``rate`` of normal images exceeds: their scores, or the largest value of their maps.

        nan where there was no normal image.
        """
        return false_alarm_threshold(self.normal[level], rate)

    def extrapolation(self, rate: float) -> str | None:
        """Say from which rate of false alarms on the normal images suffice, if ``rate`` is lower; ``None`` if they do.

        Args:
            rate: Wanted rate, in (0, 1).
        """
        normal = len(self.normal["image"])
        if normal == 0 or rate >= 1 / (normal + 1):
            return None
        return f"{normal} normal images: a false_alarm_rate below {1 / (normal + 1):.2g} is extrapolated from them"

    def shortage(self) -> str | None:
        """Say what the data lack for thresholds of best F1 and which rule fills the gap; ``None`` if nothing."""
        image, pixel = self.has_scores("image"), self.has_scores("pixel")
        if image and not self.counts["anomalous_image"]:
            return "no anomalous image: its threshold is its highest normal score"
        return None if image and pixel else "no masks: its pixels are judged by the pooled threshold"

    def _extend(self, extremes: dict[str, float]) -> None:
        for name, value in extremes.items():
            extreme = min if name.endswith("_min") else max
            self.extremes[name] = extreme(value, self.extremes.get(name, value))

    def has_scores(self, level: str) -> bool:
        """Whether there is something to fit a threshold on: scores with truth, and truth that shows the anomalies."""
        if not self.counts[level] or level + "_max" not in self.extremes:
            return False
        masks_are_missing = self.counts["anomalous_image"] and not self.counts["anomalous_pixel"]
        return level == "image" or not masks_are_missing


class CategoryScores:
    """What this process saw of one category during validation.

    Args:
        device: Where the scores are.
    """

    def __init__(self, device: torch.device) -> None:
        # Not strict: batches without labels or masks are passed over, as anomalib's post-processor does.
        self.metrics = {
            "image": F1AdaptiveThreshold(fields=["pred_score", "gt_label"], strict=False).to(device),
            "pixel": F1AdaptiveThreshold(fields=["anomaly_map", "gt_mask"], strict=False).to(device),
        }
        self.summary = ScoreSummary()

    def update(self, scores: Scores, *, with_thresholds: bool) -> None:
        """Take in the images of one batch."""
        self.summary.update(scores)
        if with_thresholds:
            for metric in self.metrics.values():
                metric.update(scores.as_batch())

    def fit_threshold(self, level: str, everywhere: ScoreSummary) -> Tensor | float:
        """Threshold of best F1; without anomalous or without normal samples the extreme score, as anomalib has it.

        For images it lies between two scores, so that the lowest anomalous one is not missed.

        All processes must call this for the same categories in the same order.

        Args:
            level: ``"image"`` or ``"pixel"``.
            everywhere: Summary of the category over all processes.

        Returns:
            The raw threshold, nan if there is nothing to fit it on.
        """
        total, anomalous = everywhere.counts[level], everywhere.counts["anomalous_" + level]
        if not everywhere.has_scores(level):
            return float("nan")
        if anomalous in {0, total}:
            return everywhere.extremes[level + ("_min" if anomalous else "_max")]
        take_part(self.metrics[level], everywhere, level)
        threshold = self.metrics[level].compute()
        return everywhere.below(float(threshold)) if level == "image" else threshold


def gather_summaries(local: dict[str, ScoreSummary]) -> dict[str, ScoreSummary]:
    """Summary of each category over all processes, sorted by name, the same in each of them.

    Args:
        local: Summaries of this process; categories that it did not see are missing.

    Returns:
        Summaries of all categories that any process saw.
    """
    merged: dict[str, ScoreSummary] = {}
    for name, summary in sorted(
        (item for part in all_gather(local) for item in part.items()), key=lambda item: item[0]
    ):
        merged.setdefault(name, ScoreSummary()).merge(summary)
    return merged


def merge_all(summaries: Iterable[ScoreSummary]) -> ScoreSummary:
    """Join summaries into one."""
    joined = ScoreSummary()
    for summary in summaries:
        joined.merge(summary)
    return joined


def select(batch: Batch, rows: list[int]) -> Scores:
    """Scores and truth of some images of a batch, uncopied if they are all of it."""
    fields = [getattr(batch, name, None) for name in Scores._fields]
    return Scores(*(field if field is None or len(rows) == len(field) else field[rows] for field in fields))


def take_part(metric: F1AdaptiveThreshold | MinMax, everywhere: ScoreSummary, level: str) -> None:
    """Let a process without samples take part when the others compute a metric, which is an exchange between them.

    Without it the others would wait for ever, and torchmetrics would send empty truth of the wrong type. What is
    added does not change the result: no sample for a threshold, the extremes of all processes for a range.

    Args:
        metric: Metric to compute next.
        everywhere: Summary over all processes.
        level: ``"image"`` or ``"pixel"``.
    """
    ends = [everywhere.extremes[f"{level}_{end}"] for end in ("min", "max") if f"{level}_{end}" in everywhere.extremes]
    if metric.update_called or not ends:
        return
    if isinstance(metric, MinMax):
        values = torch.tensor(ends, device=metric.device)
        metric.update(Scores(values, None, values, None).as_batch())
    elif everywhere.counts[level]:
        values = torch.empty(0, device=metric.device)
        metric.update(Scores(values, values.bool(), values, values.bool()).as_batch())
