# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which threshold known images call for: one rule for training, ``set``, ``fit`` and ``correct``."""

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
"""Share of the normal scores that the tail is fitted on."""
ABOVE = 1e-4
"""A threshold that takes a score for normal lies at most this share of the scores' range above it: exports and batches
of another size round otherwise, and would call that very image anomalous."""
BELOW = 0.05
"""A threshold below all scores lies this share of the lowest under it: rounding to half precision moves scores less."""


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
    pixel = highest_normal_threshold(peaks)
    truths = [image.anomalous for image in images]
    if not any(truths):
        return Fit(highest_normal_threshold(scores_of(images, anomalous=False)), pixel, HIGHEST_NORMAL)
    return Fit(best_f1_threshold([image.score for image in images], truths), pixel, BEST_F1)


def false_alarm_threshold(scores: Sequence[float], rate: float) -> float:
    """Threshold that a new normal image exceeds with a given probability, from scores of normal images alone.

    Where the scores suffice, the threshold lies just above one of them: of ``n`` old scores and a new one each is as
    likely to be the largest as any other, so that the new one exceeds the ``ceil((n + 1) (1 - rate))``-th smallest with
    a probability of at most ``rate``, whatever their distribution (conformal prediction, Vovk et al. 2005). Rates below
    ``1 / (n + 1)`` lie beyond the scores: there the largest quarter of them is continued by an exponential tail (peaks
    over a threshold, Pickands 1975, with shape 0).

    Args:
        scores: Scores of ``n`` normal images that training did not see, in any unit.
        rate: Wanted probability, in (0, 1).

    Returns:
        The threshold; nan without a score. One score, or equal ones, show no tail: it is the largest of them then.

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
    """Threshold that none of some scores exceeds; nan without a score."""
    return just_above(sorted(scores), len(scores)) if scores else math.nan


def just_above(ordered: Sequence[float], place: int) -> float:
    """Threshold above the lowest ``place`` of some scores in rising order and below the next, whoever rounds them."""
    score, finite = ordered[place - 1], list(filter(math.isfinite, ordered))
    if not math.isfinite(score):
        return score
    steps = [(other - score) / 2 for other in finite if other > score][:1]
    return score + min([ABOVE * (finite[-1] - finite[0]), *steps])


def check_rate(rate: float) -> None:
    """Refuse, by a ValueError, a rate of false alarms that is not in (0, 1)."""
    if not (isinstance(rate, Real) and 0 < rate < 1):
        raise ValueError(
            f"false_alarm_rate must lie between 0 and 1, got {rate!r}; 0.01 is one false alarm in a hundred."
        )


def best_f1_threshold(scores: Sequence[float], anomalous: Sequence[bool]) -> float:
    """Threshold of best F1 over images of which some are anomalous, where models compare scores with it in 32 bits.

    It lies below the lowest score that is to be called anomalous, since labels ask for more than the threshold: in the
    middle of it and the next lower one, or a share of it (:data:`BELOW`) under it where there is none.

    Args:
        scores: At least one; infinite ones stand above all others.
        anomalous: Whether each is of an anomalous image.

    Returns:
        A finite number of 32 bits.
    """
    highest = max(filter(math.isfinite, scores), default=0.0)
    values = torch.tensor(scores, dtype=torch.float32).clamp(max=highest + (abs(highest) or 1.0))
    lowest = best_f1_score(values, torch.tensor(anomalous))
    lower = [value for value in values.tolist() if value < lowest]
    wanted = (lowest + max(lower)) / 2 if lower else lowest - BELOW * (abs(lowest) or highest or 1.0)
    return float(min(np.float32(wanted), np.nextafter(np.float32(lowest), np.float32(-np.inf))))


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
