# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled images that a threshold was fitted on, with their scores: the evidence for its error rates."""

import math
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

MOST_IMAGES = 2000
"""Largest number of normal images, and of anomalous ones, kept per product: some 40 bytes each."""


class KnownImage(NamedTuple):
    """An image whose label is known, with its score.

    Attributes:
        name: File name and its folder, enough to find the image.
        anomalous: The label.
        score: Score in the unit of the thresholds; infinite for NaN, so that it is called anomalous.
        peak: Largest value of its anomaly map; nan without a map.
    """

    name: str
    anomalous: bool
    score: float
    peak: float = math.nan

    @classmethod
    def of(cls, path: str, score: float, peak: float, *, anomalous: bool) -> "KnownImage":
        """Record an image at ``path``, with numbers rounded to the digits of float32."""
        name = "/".join(PurePath(path).parts[-2:])
        return cls(name, anomalous, math.inf if math.isnan(score) else rounded(score), rounded(peak))


def rounded(value: float) -> float:
    """Round a number to the digits that float32 holds."""
    return float(f"{value:.9g}")


def scores_of(images: Iterable[KnownImage], *, anomalous: bool) -> list[float]:
    """Return the scores of the anomalous or of the normal images."""
    return [image.score for image in images if image.anomalous == anomalous]


def peaks_of(images: Iterable[KnownImage]) -> list[float]:
    """Return the largest map values of the normal images that have maps."""
    return [image.peak for image in images if not image.anomalous and not math.isnan(image.peak)]


def thinned(images: Sequence[KnownImage], most: int = MOST_IMAGES) -> tuple[KnownImage, ...]:
    """Keep at most ``most`` normal and ``most`` anomalous images: evenly by rank of score, both ends included.

    Confidence bounds are then those of the images kept.
    """
    kept: list[KnownImage] = []
    for truth in (False, True):
        ordered = sorted((image for image in images if image.anomalous == truth), key=lambda image: image.score)
        count = min(len(ordered), most)
        kept += [ordered[round(place * (len(ordered) - 1) / max(count - 1, 1))] for place in range(count)]
    return tuple(kept)


def to_plain(images: Sequence[KnownImage]) -> dict[str, list[Any]]:
    """Return images as plain data, a column for each field."""
    return {field: [getattr(image, field) for image in images] for field in KnownImage._fields}


def from_plain(columns: Any) -> tuple[KnownImage, ...]:  # noqa: ANN401  # whatever a file holds
    """Read what :func:`to_plain` returned; raise a LookupError, TypeError or ValueError for anything else."""
    rows = zip(*(columns[field] for field in KnownImage._fields), strict=True)
    return tuple(KnownImage(str(name), bool(truth), float(score), float(peak)) for name, truth, score, peak in rows)
