# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds that promise a rate of false alarms, from scores of normal images alone."""

import math
from collections.abc import Sequence
from numbers import Real

TAIL_SHARE = 0.25
"""Share of the normal scores that the tail is fitted on."""


def false_alarm_threshold(scores: Sequence[float], rate: float) -> float:
    """Threshold that a new normal image exceeds with a given probability.

    Where the scores suffice, the threshold is one of them: of ``n`` old scores and a new one each is as likely to be
    the largest as any other, so that the new one exceeds the ``ceil((n + 1) (1 - rate))``-th smallest with a
    probability of at most ``rate``, whatever their distribution (conformal prediction, Vovk et al. 2005). Rates below
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
        return ordered[min(place, n) - 1]
    tail = math.ceil(TAIL_SHARE * n)  # scores above the tail's start
    start = ordered[n - 1 - tail]
    mean_excess = sum(score - start for score in ordered[n - tail :]) / tail
    return max(start + mean_excess * math.log(tail / ((n + 1) * rate)), ordered[-1])


def check_rate(rate: float) -> None:
    """Refuse a rate of false alarms outside of (0, 1).

    Raises:
        ValueError: If it is not in (0, 1).
    """
    if not (isinstance(rate, Real) and 0 < rate < 1):
        raise ValueError(
            f"false_alarm_rate must lie between 0 and 1, got {rate!r}; 0.01 is one false alarm in a hundred."
        )
