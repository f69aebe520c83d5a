# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which threshold known images call for: one rule for training, ``set``, ``fit`` and ``correct``."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from .false_alarms import false_alarm_threshold
from .labelled_scores import KnownImage, peaks_of, scores_of
from .score_histogram import best_f1_score

BEST_F1 = "best F1"
HIGHEST_NORMAL = "highest normal score"


def false_alarm_rule(rate: float) -> str:
    """Name the rule that promises a rate of false alarms."""
    return f"false alarms {rate:g}"


class Fit(NamedTuple):
    """Thresholds of images and pixels in the unit of the scores, pixels nan where nothing is known; and their rule."""

    image: float
    pixel: float
    rule: str


def fit(images: Sequence[KnownImage], rate: float | None) -> Fit:
    """Fit the thresholds of a product.

    Args:
        images: At least one normal image.
        rate: Share of false alarms that is wanted, in (0, 1); ``None`` takes best F1, where there are anomalous images,
            or the highest normal score.

    Returns:
        The thresholds. Without a rate, pixels are called anomalous above all those of normal images.

    Raises:
        ValueError: If the rate is out of range.
    """
    peaks = peaks_of(images)
    if rate is not None:
        normal = scores_of(images, anomalous=False)
        image, pixel = (false_alarm_threshold(values, rate) for values in (normal, peaks))
        return Fit(image, pixel, false_alarm_rule(rate))
    pixel = max(peaks, default=math.nan)
    truths = [image.anomalous for image in images]
    if not any(truths):
        return Fit(max(scores_of(images, anomalous=False)), pixel, HIGHEST_NORMAL)
    return Fit(best_f1_threshold([image.score for image in images], truths), pixel, BEST_F1)


def best_f1_threshold(scores: Sequence[float], anomalous: Sequence[bool]) -> float:
    """Threshold of best F1 over images of both kinds.

    It lies below the lowest score that is to be called anomalous, since labels ask for more than the threshold: in the
    middle of it and the next lower one.
    """
    lowest = best_f1_score(torch.tensor(scores, dtype=torch.float64), torch.tensor(anomalous))
    lower = [score for score in scores if score < lowest]
    return (lowest + max(lower)) / 2 if lower else lowest


def moved(threshold: float, before: Sequence[float], after: Sequence[float]) -> float:
    """Move a threshold with the scores of some images, so that the same share of them exceeds it.

    It keeps its place between two scores; beyond all of them it keeps its proportion to the nearest.

    Args:
        threshold: The threshold; one that is no number stays so.
        before: Scores of the images when it was valid.
        after: Scores of the same images now.

    Returns:
        The threshold for such scores; the same without any images.
    """
    old, new = sorted(before), sorted(after)
    if not old or math.isnan(threshold):
        return threshold
    if old[0] < threshold < old[-1]:
        return float(np.interp(threshold, old, new))
    end = 0 if threshold <= old[0] else -1
    return threshold * new[end] / old[end] if old[end] > 0 else threshold + new[end] - old[end]
