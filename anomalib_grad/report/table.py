# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Result table for the terminal, as CSV and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from anomalib_grad.files.atomic import write_text

from .records import METRIC_NAMES, CategoryResult, TestReport

LEVELS = ("image", "pixel")


def results_frame(report: TestReport) -> pd.DataFrame:
    """Return the results as a data frame: one row per category, then ``mean``; columns as in :class:`CategoryResult`.

    Two more columns count the categories that enter the row's image and pixel metrics: 1 or 0 in a category's own row.
    """
    frame = pd.DataFrame([asdict(row) for row in (*report.results, report.mean)])
    for level in LEVELS:
        own = frame[f"{level}_AUROC"].iloc[:-1].notna().astype(int)
        frame[f"{level}_categories"] = [*own, report.defined_in(level)]
    return frame


def write_csv(report: TestReport, path: Path) -> None:
    """Write the results as CSV with full precision, whole or not at all; undefined values are empty cells."""
    write_text(path, results_frame(report).to_csv(index=False))


def write_json(report: TestReport, path: Path) -> None:
    """Write the results as a JSON list of rows, whole or not at all; undefined values are ``null``."""
    write_text(path, results_frame(report).to_json(orient="records", indent=2, double_precision=15))


def results_table(report: TestReport) -> Table:
    """Return the results as a terminal table: metrics in percent, undefined values as dashes."""
    table = Table(title=f"{report.model}: results per category (metrics in %)", box=SIMPLE_HEAD, caption_justify="left")
    table.add_column("category", overflow="fold")
    headers = ("normal", "anomalous", *(name.replace("_", "\n") for name in METRIC_NAMES), "threshold")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row in report.results:
        table.add_row(*_cells(row))
    table.add_section()
    _, *values = _cells(report.mean)
    table.add_row(f"mean of {report.mean_of}", *values, style="bold")
    table.caption = Text("\n".join(report.notes), style="table.caption")
    return table


def _cells(row: CategoryResult) -> list[str | Text]:
    """Return the cells of a row; the name is a ``Text``, since rich would read brackets in it as markup."""
    metrics = [_cell(100 * getattr(row, name), ".1f") for name in METRIC_NAMES]
    return [Text(row.category), str(row.n_normal), str(row.n_anomalous), *metrics, _cell(row.threshold, ".4g")]


def _cell(value: float, how: str) -> str:
    return "-" if math.isnan(value) else format(value, how)
