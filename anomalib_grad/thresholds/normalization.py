# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Inverse of score normalisation, and ranges that make a given score the threshold at any sensitivity.

Scores are normalised linearly up to :data:`KNEE`: the lowest of their range to 0, its threshold to one half. Scores
further above the threshold, which are all defects if the range comes from normal images alone, share the rest up to 1.
They are compressed by the width of the range, so that no two scores become equal.

A model calls anomalous what it normalises above a level: one half, or less if its sensitivity is higher. The level is
fixed in exports, so the middle of the range has to move to place a score at the level.
"""

import math

HALF = 0.5
KNEE = 0.9
"""Normalised score above which scores are compressed; without that, a range's highest score would be at 1."""
ROUNDING = 2.0**-20
"""Distance below the level at which a threshold is placed: libraries that compute in float32 differ by less."""


def score_at(value: float, norm_min: float, norm_max: float, threshold: float) -> float:
    """Return the score at a position in a range: 0 is its lowest, 0.5 the threshold, 1 its highest, linear between."""
    below, above = extents(norm_min, norm_max, threshold)
    return threshold + (2 * value - 1) * (below if value < HALF else above)


def extents(norm_min: float, norm_max: float, threshold: float) -> tuple[float, float]:
    """Return how far a range reaches below and above its threshold; an empty side takes the other's extent, or 1."""
    below, above = threshold - norm_min, norm_max - threshold
    below, above = below if below > 0 else above, above if above > 0 else below
    return below if below > 0 else 1.0, above if above > 0 else 1.0


def denormalize(value: float, norm_min: float, norm_max: float, threshold: float) -> float:
    """Return the raw score that a post-processor with this range and threshold normalises to a value in [0, 1]."""
    if value <= KNEE:
        return score_at(value, norm_min, norm_max, threshold)
    return score_at(KNEE, norm_min, norm_max, threshold) + sum(extents(norm_min, norm_max, threshold)) * _excess(value)


def _excess(value: float) -> float:
    """Return how far beyond the knee a score lies, in widths of its range, if it normalises to a value in (KNEE, 1]."""
    return (value - KNEE) / (1 - value) if value < 1 else math.inf


def place_range(threshold: float, level: float, low: float, high: float) -> tuple[float, float, float]:
    """Place a range so that a score is normalised to a level.

    Args:
        threshold: The score, in the unit of the range.
        level: Level in [0, 1) above which normalised scores are called anomalous.
        low: Lowest score of the range, finite.
        high: Highest score.

    Returns:
        Lowest score, middle and highest score. The ends move only if the threshold is not between them, and never at
        level 0.5.

    Raises:
        ValueError: If the level is 1, which no score exceeds.
    """
    if level == HALF:
        return low, threshold, high
    if level >= 1:
        raise ValueError(
            "The model calls nothing anomalous because its sensitivity is 0: raise image_sensitivity of the "
            "checkpoint's post-processor and export it again."
        )
    extent = high - low if high > low else 1.0
    low, high = low if low < threshold else threshold - extent, high if high > threshold else threshold + extent
    if level == 0:  # all scores above the lowest are anomalous
        return threshold, (threshold + high) / 2, high
    level -= ROUNDING
    if level < HALF:
        middle = low + (threshold - low) / (2 * level)
    elif level > KNEE:  # equal extents on both sides of the middle, for want of another rule
        half = (threshold - low) / (2 * (KNEE + _excess(level)))
        middle, high = low + half, low + 2 * half
    else:
        middle = (threshold - (2 * level - 1) * high) / (2 - 2 * level)
    return low, middle, high
