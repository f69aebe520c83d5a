# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a threshold does to images whose truth is known, and how sure that is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .labelled_scores import KnownImage

CONFIDENCE = 0.95
STEPS = (1, 3, 10, 30)
"""Images, in the order of their scores, from a threshold to the neighbouring ones that a table shows."""


@dataclass(frozen=True)
class Outcome:
    """Counts of verdicts.

    Attributes:
        normal: Normal images.
        false_alarms: Those of them that are called anomalous.
        anomalous: Anomalous images.
        missed: Those of them that are called normal.
    """

    normal: int
    false_alarms: int
    anomalous: int
    missed: int


def called_anomalous(score: float, threshold: float) -> bool:
    """Tell how a model that computes in 32 bits judges a score."""
    return bool(np.float32(score) > np.float32(threshold))


def outcome(images: Iterable[KnownImage], threshold: float) -> Outcome:
    """Count what a threshold, in the unit of the scores, does to images."""
    verdicts = [(image.anomalous, called_anomalous(image.score, threshold)) for image in images]
    truths = [truth for truth, _ in verdicts]
    return Outcome(
        normal=truths.count(False),
        false_alarms=verdicts.count((False, True)),
        anomalous=truths.count(True),
        missed=verdicts.count((True, False)),
    )


def interval(count: int, total: int) -> tuple[float, float]:
    """Bounds of the share that a count stands for, with 95 % confidence (Clopper & Pearson 1934).

    Returns:
        The lower and the upper bound, in [0, 1]: 0 and 1 where nothing was counted.
    """
    from scipy.stats import binomtest  # noqa: PLC0415  # takes a second to import

    if not total:
        return 0.0, 1.0
    bounds = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return float(bounds.low), float(bounds.high)


def in_words(count: int, total: int) -> str:
    """Write a count with its share and what the share may be: ``"1 of 40: 2.5 % (0.063 to 13 %)"``."""
    if not total:
        return "unknown: no such image"
    low, high = interval(count, total)
    return f"{count} of {total}: {percent(count / total)} % ({percent(low)} to {percent(high)} %)"


def percent(share: float) -> str:
    """Write a share in percent with two digits, near the whole with three: two would be ``1e+02``."""
    return f"{100 * share:.{2 if share < 0.99 else 3}g}"  # noqa: PLR2004


def extrapolates(rate: float, normal: int) -> bool:
    """Tell whether a promised share of false alarms is less than so many normal images can show."""
    return rate < 1 / (normal + 1)


def neighbours(images: Sequence[KnownImage], threshold: float) -> list[tuple[float, Outcome]]:
    """Find thresholds around one that judge some images differently, and what each of them does.

    Args:
        images: What is judged.
        threshold: Where to start, in the unit of the scores; others are :data:`STEPS` images away, on either side.

    Returns:
        Thresholds in falling order, ``threshold`` itself among them, none if that is nan; the last is the strictest.
    """
    scores = sorted({image.score for image in images if math.isfinite(image.score)})
    if math.isnan(threshold):
        return []
    ends = [*scores, *scores[-1:]]
    here = sum(not called_anomalous(score, threshold) for score in scores)  # scores up to the threshold
    places = sorted({place for step in STEPS for place in (here - step, here + step) if 0 < place <= len(scores)})
    found = [(ends[place - 1] + ends[place]) / 2 for place in places]
    return [(one, outcome(images, one)) for one in sorted([*found, threshold], reverse=True)]
