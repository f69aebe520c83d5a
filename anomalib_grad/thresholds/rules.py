# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Rules that fit a threshold on labelled images, the same for training, ``set``, ``fit`` and ``correct``."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch

from .labelled_scores import KnownImage, peaks_of, scores_of
from .score_histogram import best_f1_score

BEST_F1 = "best F1"
HIGHEST_NORMAL = "highest normal score"
TAIL_SHARE = 0.25
"""Share of the normal scores, the highest ones, that the tail is fitted on."""
ABOVE = 1e-4
"""Largest distance of a threshold above the score that it calls normal, as a share of that score. Exports and other
batch sizes round differently, and would call that image anomalous if the threshold equalled its score."""
BELOW = 0.05
"""Distance of a threshold below all scores, as a share of the lowest: rounding to half precision moves scores less."""


class Fit(NamedTuple):
    """Image and pixel threshold in the unit of the scores, and their rule; the pixel threshold is nan if unknown."""

    image: float
    pixel: float
    rule: str


def fit(images: Sequence[KnownImage], rate: float | None) -> Fit:
    """Fit the thresholds of a product.

    Args:
        images: At least one normal image.
        rate: Wanted false alarm rate, in (0, 1); ``None`` takes best F1 if there are anomalous images, else the highest
            normal score.

    Returns:
        The thresholds. Without a rate, the pixel threshold is the largest map value of the normal images.

    Raises:
        ValueError: If the rate is out of range.
    """
    peaks = peaks_of(images)
    if rate is not None:
        normal = scores_of(images, anomalous=False)
        image, pixel = (false_alarm_threshold(values, rate) for values in (normal, peaks))
        return Fit(image, pixel, f"false alarms {rate:g}")
    pixel = highest_normal_threshold(peaks)
    truths = [image.anomalous for image in images]
    if not any(truths):
        return Fit(highest_normal_threshold(scores_of(images, anomalous=False)), pixel, HIGHEST_NORMAL)
    return Fit(best_f1_threshold([image.score for image in images], truths), pixel, BEST_F1)


def false_alarm_threshold(scores: Sequence[float], rate: float) -> float:
    """Return the threshold that a new normal image exceeds with a given probability, from normal scores alone.

    With enough scores the threshold lies just above one of them. Among ``n`` old scores and a new one, each is equally
    likely to be the largest, so the new one exceeds the ``ceil((n + 1) (1 - rate))``-th smallest with a probability of
    at most ``rate``, whatever their distribution (conformal prediction, Vovk et al. 2005). Rates below ``1 / (n + 1)``
    need a threshold above all scores: an exponential tail continues the largest quarter of them (peaks over a
    threshold, Pickands 1975, with shape 0).

    Args:
        scores: Scores of ``n`` normal images that training did not see, in any unit.
        rate: Wanted probability, in (0, 1).

    Returns:
        The threshold; nan without scores. One score, or equal ones, show no tail: the threshold lies just above it.

    Raises:
        ValueError: If ``rate`` is out of range.
    """
    check_rate(rate)
    ordered = sorted(scores)
    n = len(ordered)
    if n == 0:
        return math.nan
    place = math.ceil((n + 1) * (1 - rate) - 1e-9)
    if place <= n or n == 1:
        return just_above(ordered, min(place, n))
    tail = math.ceil(TAIL_SHARE * n)  # scores above the tail's start
    start = ordered[n - 1 - tail]
    mean_excess = sum(score - start for score in ordered[n - tail :]) / tail
    return max(start + mean_excess * math.log(tail / ((n + 1) * rate)), just_above(ordered, n))


def highest_normal_threshold(scores: Sequence[float]) -> float:
    """Return a threshold that calls all scores normal; nan without scores."""
    return just_above(sorted(scores), len(scores)) if scores else math.nan


def just_above(ordered: Sequence[float], place: int) -> float:
    """Return a threshold above the lowest ``place`` of scores in rising order, and below the next higher score."""
    score = ordered[place - 1]
    next_higher = next((other for other in ordered[place:] if other > score), math.inf)
    return score + min(ABOVE * abs(score), (next_higher - score) / 2)


def check_rate(rate: float) -> None:
    """Raise a ValueError if a false alarm rate is not in (0, 1)."""
    if not (isinstance(rate, Real) and 0 < rate < 1):
        raise ValueError(
            f"false_alarm_rate must lie between 0 and 1, got {rate!r}; 0.01 is one false alarm in a hundred."
        )


def best_f1_threshold(scores: Sequence[float], anomalous: Sequence[bool]) -> float:
    """Return the threshold of best F1 over images, some of them anomalous, for models that compare in float32.

    It lies below the lowest score to be called anomalous, since labels require a score above the threshold: halfway to
    the next lower score, or a share of it (:data:`BELOW`) below if there is none.

    Args:
        scores: At least one; infinite ones rank above all others.
        anomalous: Whether each score is of an anomalous image.

    Returns:
        A finite float32 number.
    """
    highest = max(filter(math.isfinite, scores), default=0.0)
    values = torch.tensor(scores, dtype=torch.float32).clamp(max=highest + (abs(highest) or 1.0))
    lowest = best_f1_score(values, torch.tensor(anomalous))
    lower = [value for value in values.tolist() if value < lowest]
    wanted = (lowest + max(lower)) / 2 if lower else lowest - BELOW * (abs(lowest) or highest or 1.0)
    return float(min(np.float32(wanted), np.nextafter(np.float32(lowest), np.float32(-np.inf))))


def moved(threshold: float, before: Sequence[float], after: Sequence[float]) -> float:
    """Move a threshold with the scores of some images, so that the same share of them exceeds it.

    It keeps its relative position between two scores; beyond all of them it keeps its ratio to the nearest.

    Args:
        threshold: The threshold; nan stays nan.
        before: Scores of the images when the threshold was valid.
        after: Scores of the same images now.

    Returns:
        The threshold for the new scores; unchanged without images.
    """
    old, new = sorted(before), sorted(after)
    if not old or math.isnan(threshold):
        return threshold
    if old[0] < threshold < old[-1]:
        return float(np.interp(threshold, old, new))
    end = 0 if threshold <= old[0] else -1
    return threshold * new[end] / old[end] if old[end] > 0 else threshold + new[end] - old[end]
