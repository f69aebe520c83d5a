# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Sentences that a reader of the numbers should know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from anomalib_grad.evaluation.metrics import Counts
from anomalib_grad.report.records import CategoryRecord
from anomalib_grad.thresholds.post_processor import UNKNOWN


def data_notes(counts: Mapping[str, Counts]) -> list[str]:
    """Say which metrics are not defined for which categories, and why."""
    seen = {name: c for name, c in counts.items() if c.n_normal + c.n_anomalous}
    no_pixels = [name for name, c in seen.items() if c.n_anomalous and not c.ranks_pixels]
    unmarked = {name: c for name, c in seen.items() if c.n_unmarked and c.ranks_pixels}
    return [
        *_note("No test image was seen of {}.", [name for name in counts if name not in seen]),
        *_note(
            "No image metrics for {}: they need normal and anomalous test images.",
            [name for name, c in seen.items() if not c.ranks_images],
        ),
        *_note("Image metrics only for {}: no anomaly masks.", no_pixels),
        *(
            f"{c.n_unmarked} of {c.n_anomalous} anomalous images of {name} have an empty mask: their pixels count as "
            "normal."
            for name, c in unmarked.items()
        ),
    ]


def threshold_notes(fitted: Sequence[str], pooled: Sequence[str]) -> list[str]:
    """Say which categories have thresholds of their own."""
    notes = _note("Thresholds fitted for {}; extends adds a product.", fitted)
    if pooled:
        notes += _note("The pooled threshold is used for {}: fit again with their validation images.", pooled)
    return notes


def recognition_notes(records: Sequence[CategoryRecord]) -> list[str]:
    """Say how often the model recognised the category of an image by itself, and what it took the others for."""
    named = [(record.category, record.recognised) for record in records if record.recognised is not None]
    total = sum(len(names) for _, names in named)
    if not total:
        return []
    right = sum(int(np.sum(names == category)) for category, names in named)
    unseen = sum(int(np.sum(names == UNKNOWN)) for _, names in named)
    return [
        f"The model recognised the category of {right} of {total} test images ({100 * right / total:.1f} %); it took "
        f"{total - right - unseen} for another category and {unseen} for an unseen one."
    ]


def ignoring_notes(names: Sequence[str]) -> list[str]:
    """Say in the images of which categories something is ignored."""
    return _note("What is hatched in images of {} is not judged: it counts as normal, with a score of 0.", names)


def _note(sentence: str, names: Sequence[str]) -> list[str]:
    return [sentence.format(", ".join(names))] if names else []
