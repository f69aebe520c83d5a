# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the comparison: all values as CSV, a selection in markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO", "image_F1Max")
CONDITIONS = ("model", "encoder", "random_encoder", "seed", "side", "batch", "steps", "precision", "recommended")
COSTS = ("train_cpu_s", "train_peak_mb", "export_mb", "cpu_ms_1", "ms_1", "ms_2", "inference_peak_mb")
ORIGIN = ("problem", "machine", "versions", "date")
Rows = Sequence[Mapping[str, Any]]


def with_worst(row: Mapping[str, Any], categories: Sequence[str]) -> dict[str, Any]:
    """Return a row with the worst product's value of each metric added."""
    worst = {}
    for metric in METRICS:
        found = pd.Series([row.get(f"{name}/{metric}") for name in categories], dtype=float)
        worst[f"worst/{metric}"] = found.min()  # ignores NaN; NaN if there are no others
    return {**row, **worst}


def to_csv(rows: Rows, categories: Sequence[str]) -> str:
    """Return all values as CSV: metrics in [0, 1], CPU seconds, MB and milliseconds; missing values are empty."""
    figures = [f"{name}/{metric}" for metric in METRICS for name in (*categories, "mean", "worst")]
    written = [{name: _written(value) for name, value in with_worst(row, categories).items()} for row in rows]
    table = pd.DataFrame(written, columns=[*CONDITIONS, *figures, *COSTS, *ORIGIN], dtype=object)
    return table.to_csv(index=False, lineterminator="\n")


def _written(value: Any) -> Any:  # noqa: ANN401  # text, or a number to round
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.5g}"


def to_markdown(rows: Rows, categories: Sequence[str]) -> str:
    """Return a table of each product's image AUROC, the means of other metrics, and costs; metrics in percent."""
    heads = ["model", *categories, "mean", "worst", "F1Max", "pixel AUROC", "AUPRO"]
    heads += ["train CPU s", "peak MB", "export MB", "CPU ms", "ms, 1 thread", "2 threads", "peak MB"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        full = with_worst(row, categories)
        figures = [f"{name}/image_AUROC" for name in (*categories, "mean", "worst")]
        figures += [f"mean/{metric}" for metric in ("image_F1Max", "pixel_AUROC", "pixel_AUPRO")]
        label = f"{row['model']}, random encoder" if row.get("random_encoder") else row["model"]
        cells = [_shown(full.get(figure), 100, 1) for figure in figures]
        cells += [_shown(full.get(cost), 1, 0 if cost.endswith(("_s", "peak_mb")) else 1) for cost in COSTS]
        if "problem" in row:  # shown in the first empty cell
            missing = cells.index("")
            cells[missing] = row["problem"].replace("|", "/")
        lines.append([label, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{factor * value:.{digits}f}"
