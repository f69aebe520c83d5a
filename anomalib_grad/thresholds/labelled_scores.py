# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The images that a threshold was fitted on, which are the evidence for all that is said about it."""

import math
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

MOST_IMAGES = 2000
"""Normal images of a product, and anomalous ones, that are kept with a model: some 40 bytes each."""


class KnownImage(NamedTuple):
    """An image whose truth is known, and what the model makes of it.

    Attributes:
        name: Its file and the folder of that, enough for whoever knows the images.
        anomalous: The truth.
        score: Score in the unit of the thresholds; infinite where it is no number, which is called anomalous.
        peak: Largest value of its map, nan where the model gives none.
    """

    name: str
    anomalous: bool
    score: float
    peak: float = math.nan

    @classmethod
    def of(cls, path: str, score: float, peak: float, *, anomalous: bool) -> "KnownImage":
        """Note an image at ``path``, in numbers as short as those of 32 bits are."""
        name = "/".join(PurePath(path).parts[-2:])
        return cls(name, anomalous, math.inf if math.isnan(score) else shortened(score), shortened(peak))


def shortened(value: float) -> float:
    """Leave out the digits that a number of 32 bits does not have."""
    return float(f"{value:.9g}")


def scores_of(images: Iterable[KnownImage], *, anomalous: bool) -> list[float]:
    """Scores of the anomalous or the normal ones."""
    return [image.score for image in images if image.anomalous == anomalous]


def peaks_of(images: Iterable[KnownImage]) -> list[float]:
    """Largest values of the maps of the normal ones that have maps."""
    return [image.peak for image in images if not image.anomalous and not math.isnan(image.peak)]


def thinned(images: Sequence[KnownImage], most: int = MOST_IMAGES) -> tuple[KnownImage, ...]:
    """Keep at most so many normal ones and so many anomalous ones: evenly by the order of their scores, the ends too.

    What is then concluded from them is as unsure as if there were no others.
    """
    kept: list[KnownImage] = []
    for truth in (False, True):
        ordered = sorted((image for image in images if image.anomalous == truth), key=lambda image: image.score)
        count = min(len(ordered), most)
        kept += [ordered[round(place * (len(ordered) - 1) / max(count - 1, 1))] for place in range(count)]
    return tuple(kept)


def to_plain(images: Sequence[KnownImage]) -> dict[str, list[Any]]:
    """Give images as plain data, a column for each field."""
    return {field: [getattr(image, field) for image in images] for field in KnownImage._fields}


def from_plain(columns: Any) -> tuple[KnownImage, ...]:  # noqa: ANN401  # whatever a file holds
    """Read what :func:`to_plain` gave; a LookupError, TypeError or ValueError if it is something else."""
    rows = zip(*(columns[field] for field in KnownImage._fields), strict=True)
    return tuple(KnownImage(str(name), bool(truth), float(score), float(peak)) for name, truth, score, peak in rows)
