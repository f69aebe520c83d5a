# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a product's threshold, and thresholds near it, do to the test images, in counts that need no statistics."""

import math
from typing import NamedTuple

from anomalib_grad.thresholds.known_images import KnownImage
from anomalib_grad.thresholds.outcome import Outcome, in_words, neighbours
from anomalib_grad.thresholds.post_processor import denormalize

from .records import CategoryRecord


class Neighbour(NamedTuple):
    """A threshold and what it does.

    Attributes:
        threshold: On the scale of the page's scores.
        raw: In the unit of the model's own scores, as ``python -m anomalib_grad.thresholds set --threshold`` takes it.
        outcome: Counts of the test images.
        current: Whether it is the model's.
        false_alarms: Normal images that it stops, in words.
        missed: Anomalous images that it lets pass, in words.
    """

    threshold: float
    raw: float
    outcome: Outcome
    current: bool
    false_alarms: str
    missed: str


def neighbouring(record: CategoryRecord) -> list[Neighbour]:
    """Find the thresholds of a category that a table shows, the strictest last; none where its own is not known."""
    images = [
        KnownImage("", bool(truth), float(score))
        for score, truth in zip(record.scores, record.anomalous, strict=True)
        if math.isfinite(score)
    ]
    return [
        Neighbour(
            threshold,
            threshold if record.raw is None else denormalize(threshold, *record.raw),
            found,
            threshold == record.threshold,
            in_words(found.false_alarms, found.normal),
            in_words(found.missed, found.anomalous),
        )
        for threshold, found in neighbours(images, record.threshold)
    ]
