# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""From [0, 1] back to scores, and which range makes a score the threshold, whatever sensitivity a model has.

Scores of a range are normalised linearly, its lowest to 0 and its threshold to one half, up to :data:`KNEE`. What lies
further beyond the threshold, in ranges of normal images alone every defect, shares what is left up to 1: it is
compressed by the width of the range, so that no two scores become equal.

A model calls anomalous what it normalises above a level: one half, or less where its sensitivity is higher. The level
is built into exports, so that the middle of the range has to give way for a score to stand there.
"""

import math

HALF = 0.5
KNEE = 0.9
"""Normalised score beyond which scores are compressed; that of a range's highest score would be 1."""
ROUNDING = 2.0**-20
"""How far below the level a threshold is placed: libraries that compute in 32 bits differ by less."""


def along(value: float, norm_min: float, norm_max: float, threshold: float) -> float:
    """Score at a place of a range: 0 is its lowest, one half the threshold, 1 its highest, and linear in between."""
    below, above = extents(norm_min, norm_max, threshold)
    return threshold + (2 * value - 1) * (below if value < HALF else above)


def extents(norm_min: float, norm_max: float, threshold: float) -> tuple[float, float]:
    """How far a range reaches below and above its threshold; a side without extent takes the other's, or one unit."""
    below, above = threshold - norm_min, norm_max - threshold
    below, above = below if below > 0 else above, above if above > 0 else below
    return below if below > 0 else 1.0, above if above > 0 else 1.0


def denormalize(value: float, norm_min: float, norm_max: float, threshold: float) -> float:
    """Give the raw score that a post-processor with this range and threshold normalises to a value in [0, 1]."""
    if value <= KNEE:
        return along(value, norm_min, norm_max, threshold)
    return along(KNEE, norm_min, norm_max, threshold) + sum(extents(norm_min, norm_max, threshold)) * _excess(value)


def _excess(value: float) -> float:
    """How many widths of a range beyond the knee the score lies that is normalised to a value in (KNEE, 1]."""
    return (value - KNEE) / (1 - value) if value < 1 else math.inf


def placed(threshold: float, level: float, low: float, high: float) -> tuple[float, float, float]:
    """Place a range so that a score is normalised to a level.

    Args:
        threshold: The score, in the unit of the range.
        level: In [0, 1): the level above which normalised scores are called anomalous.
        low: Lowest score of the range, finite.
        high: Highest score.

    Returns:
        Lowest score, middle and highest score. The ends move only where the threshold is not between them, and at one
        half not at all.

    Raises:
        ValueError: If the level is 1, above which there is nothing.
    """
    if level == HALF:
        return low, threshold, high
    if level >= 1:
        raise ValueError(
            "The model calls nothing anomalous, as its sensitivity is 0: set image_sensitivity of the checkpoint's "
            "post-processor to more and export again."
        )
    extent = high - low if high > low else 1.0
    low, high = low if low < threshold else threshold - extent, high if high > threshold else threshold + extent
    if level == 0:  # all above the lowest score
        return threshold, (threshold + high) / 2, high
    level -= ROUNDING
    if level < HALF:
        middle = low + (threshold - low) / (2 * level)
    elif level > KNEE:  # as far above the middle as below it, for want of another rule
        half = (threshold - low) / (2 * (KNEE + _excess(level)))
        middle, high = low + half, low + 2 * half
    else:
        middle = (threshold - (2 * level - 1) * high) / (2 - 2 * level)
    return low, middle, high
