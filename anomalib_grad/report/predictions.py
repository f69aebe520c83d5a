# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Table of predictions: its columns, and the CSV file that a prediction run writes."""

from __future__ import annotations

import csv
from collections.abc import Collection
from io import StringIO
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomalib_grad.files.atomic import write_text

PREDICTIONS = "predictions.csv"
RIGHT_LABEL = "right_label"
"""Column for reviewers to fill in: the right label, ``normal`` or ``anomalous``; empty if nobody has looked."""


class Prediction(NamedTuple):
    """Prediction for one image; its fields name the columns wherever a table of predictions is written or read.

    Attributes:
        path: Path of the image.
        pred_score: Anomaly score, in [0, 1] if the model normalises.
        pred_label: Whether the image is anomalous; ``None`` without a threshold.
        category: The image's product, recognised or given; ``None`` if the model knows none.
    """

    path: str
    pred_score: float | None
    pred_label: bool | None
    category: str | None


def write_predictions(predictions: Collection[Prediction], path: Path) -> Path | None:
    """Write predictions as CSV, whole or not at all, with an empty column for reviewers' labels.

    Scores are written in single precision, and text is quoted. File names that are not valid UTF-8 keep their bytes. An
    earlier table that lists other images, or has reviewers' labels, is kept under a numbered name.

    Returns:
        New path of the earlier table; ``None`` if none was kept.

    Raises:
        CannotWriteError: If the folder is not writable, or the disk is full.
    """
    text = StringIO()
    table = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    table.writerow([*Prediction._fields, RIGHT_LABEL])
    for one in predictions:
        score = None if one.pred_score is None else np.float32(one.pred_score)
        table.writerow([*one._replace(pred_score=score), None])  # type: ignore[arg-type]  # a float of fewer digits
    kept = None
    if path.exists() and _has_other_content(path, {one.path for one in predictions}):
        numbered = (path.with_stem(f"{path.stem}_{number}") for number in count(1))
        kept = path.rename(next(name for name in numbered if not name.exists()))
    write_text(path, text.getvalue(), errors="surrogateescape")
    return kept


def _has_other_content(table: Path, paths: set[str]) -> bool:
    """Return whether a table has images other than ``paths``, or reviewers' labels."""
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except csv.Error:  # edited by hand
        return True
    return any(row.get("path") not in paths or row.get(RIGHT_LABEL) for row in rows)
