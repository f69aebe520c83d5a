# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Error rates of a threshold on labelled images, with confidence intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .labelled_scores import KnownImage

CONFIDENCE = 0.95
STEPS = (1, 3, 10, 30)
"""Numbers of images, ordered by score, between a threshold and the neighbouring ones that a table shows."""


@dataclass(frozen=True)
class Outcome:
    """Counts of verdicts.

    Attributes:
        normal: Number of normal images.
        false_alarms: Number of normal images that are called anomalous.
        anomalous: Number of anomalous images.
        missed: Number of anomalous images that are called normal.
    """

    normal: int
    false_alarms: int
    anomalous: int
    missed: int


def called_anomalous(score: float, threshold: float) -> bool:
    """Tell whether a model that computes in float32 calls a score anomalous."""
    return bool(np.float32(score) > np.float32(threshold))


def outcome(images: Iterable[KnownImage], threshold: float) -> Outcome:
    """Count the verdicts of a threshold, in the unit of the scores, on labelled images."""
    verdicts = [(image.anomalous, called_anomalous(image.score, threshold)) for image in images]
    truths = [truth for truth, _ in verdicts]
    return Outcome(
        normal=truths.count(False),
        false_alarms=verdicts.count((False, True)),
        anomalous=truths.count(True),
        missed=verdicts.count((True, False)),
    )


def interval(count: int, total: int) -> tuple[float, float]:
    """Return bounds of the true share behind a count, with 95 % confidence (Clopper & Pearson 1934).

    Returns:
        Lower and upper bound, in [0, 1]; 0 and 1 if ``total`` is 0.
    """
    from scipy.stats import binomtest  # noqa: PLC0415  # takes a second to import

    if not total:
        return 0.0, 1.0
    bounds = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return float(bounds.low), float(bounds.high)


def rate_in_words(count: int, total: int) -> str:
    """Write a count with its share and the bounds of the true share: ``"1 of 40: 2.5 % (0.063 to 13 %)"``."""
    if not total:
        return "unknown: no such images"
    low, high = interval(count, total)
    return f"{count} of {total}: {percent(count / total)} % ({percent(low)} to {percent(high)} %)"


def percent(share: float) -> str:
    """Write a share in percent with two digits, from 99 % with three: two would give ``1e+02``."""
    return f"{100 * share:.{2 if share < 0.99 else 3}g}"  # noqa: PLR2004


def extrapolates(rate: float, normal: int) -> bool:
    """Tell whether a false alarm rate is lower than this number of normal images can show."""
    return rate < 1 / (normal + 1)


def neighbours(images: Sequence[KnownImage], threshold: float) -> list[tuple[float, Outcome]]:
    """Find thresholds around a given one that judge some images differently, with their outcomes.

    Args:
        images: Labelled images.
        threshold: The given one, in the unit of the scores; others are :data:`STEPS` images away on either side.

    Returns:
        Thresholds in descending order, including ``threshold``; empty if that is nan. The last is the strictest.
    """
    scores = sorted({image.score for image in images if math.isfinite(image.score)})
    if math.isnan(threshold):
        return []
    ends = [*scores, *scores[-1:]]
    here = sum(not called_anomalous(score, threshold) for score in scores)  # scores up to the threshold
    places = sorted({place for step in STEPS for place in (here - step, here + step) if 0 < place <= len(scores)})
    found = [(ends[place - 1] + ends[place]) / 2 for place in places]
    return [(one, outcome(images, one)) for one in sorted([*found, threshold], reverse=True)]


def written(threshold: float, images: Sequence[KnownImage]) -> str:
    """Write a threshold with the fewest digits, four at least, that judge the images as the threshold itself does."""
    texts = [f"{threshold:.{digits}g}" for digits in range(4, 17)]
    found = outcome(images, threshold)
    return next((text for text in texts if outcome(images, float(text)) == found), texts[-1])
