# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a model says of images, as a table: the names of its columns, and the file of a prediction."""

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
"""Column that people fill in: what would have been right, ``normal`` or ``anomalous``; empty where nobody looked."""


class Prediction(NamedTuple):
    """What is said of an image; the names of the columns, wherever a table of predictions is written or read.

    Attributes:
        path: The image.
        pred_score: Anomaly score, in [0, 1] where the model normalises.
        pred_label: Whether it is anomalous; ``None`` without a threshold.
        category: The product by which it is judged, recognised or told; ``None`` if the model knows none.
    """

    path: str
    pred_score: float | None
    pred_label: bool | None
    category: str | None


def write_predictions(predictions: Collection[Prediction], path: Path) -> Path | None:
    """Write predictions as CSV, whole or not at all, with an empty column for people's verdicts.

    Scores have the digits of single precision, texts are quoted. Names of files that are no UTF-8 stay as they are. An
    earlier table of other images, or with verdicts in it, is kept beside the new one, numbered.

    Returns:
        Where an earlier table is now, ``None`` if none was kept.

    Raises:
        CannotWriteError: If the folder cannot be written to, or is full.
    """
    text = StringIO()
    table = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    table.writerow([*Prediction._fields, RIGHT_LABEL])
    for one in predictions:
        score = None if one.pred_score is None else np.float32(one.pred_score)
        table.writerow([*one._replace(pred_score=score), None])  # type: ignore[arg-type]  # a float of fewer digits
    kept = None
    if path.exists() and _says_more(path, {one.path for one in predictions}):
        numbered = (path.with_stem(f"{path.stem}_{number}") for number in count(1))
        kept = path.rename(next(name for name in numbered if not name.exists()))
    write_text(path, text.getvalue(), errors="surrogateescape")
    return kept


def _says_more(table: Path, paths: set[str]) -> bool:
    """Tell whether a table says something that predictions on these images do not."""
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except csv.Error:  # people have written it anew
        return True
    return any(row.get("path") not in paths or row.get(RIGHT_LABEL) for row in rows)
