# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Test report: built from metrics and collected images, and written to files."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from anomalib.post_processing import PostProcessor
from torch import nn

from anomalib_grad.evaluation.collector import Collector
from anomalib_grad.evaluation.coordinates import GLOBAL, LOCAL
from anomalib_grad.evaluation.metrics import Counts
from anomalib_grad.report.records import CategoryRecord, CategoryResult, TestReport
from anomalib_grad.report.table import write_csv, write_json
from anomalib_grad.thresholds.category_thresholds import STATISTICS
from anomalib_grad.thresholds.post_processor import UNKNOWN, PerCategoryPostProcessor

logger = logging.getLogger(__name__)


def build_report(
    module: nn.Module,
    counts: Mapping[str, Counts],
    values: Mapping[str, Mapping[str, float]],
    collector: Collector,
    post_processor: PostProcessor | None,
) -> TestReport:
    """Build the report of a module's test; ``counts`` and ``values`` are by category, ``values`` also has ``mean``.

    Raises:
        FileNotFoundError: If the file of an example image no longer exists.
    """
    raw = {name: _raw_threshold(post_processor, name) for name in counts}
    total = sum(counts.values(), Counts())
    records = [
        collector.record(
            name,
            float(post_processor.normalized_image_threshold) if is_normalized(post_processor) else raw[name],
            is_normalized(post_processor),
            _raw_range(post_processor, name),
        )
        for name in counts
        if name in collector.logs
    ]
    notes = data_notes(counts) + _threshold_notes(post_processor, list(counts)) + recognition_notes(records)
    hatched = [name for name in counts if name in collector.logs and collector.logs[name].ignores]
    notes += _note("Hatched regions in images of {} are ignored: they count as normal, with a score of 0.", hatched)
    if collector.split_forward:
        notes.append("No coordinates are drawn for batches that the model processed in several pieces.")
    return TestReport(
        model=type(module).__name__,
        results=[
            CategoryResult(n, c.n_normal, c.n_anomalous, **values[n], threshold=raw[n]) for n, c in counts.items()
        ],
        mean=CategoryResult("mean", total.n_normal, total.n_anomalous, **values["mean"], threshold=math.nan),
        records=records,
        notes=notes,
        local_resolution=_resolution(module, LOCAL),
        global_resolution=_resolution(module, GLOBAL),
    )


def write_report(report: TestReport, folder: Path) -> None:
    """Write ``per_category.csv``, ``per_category.json`` and ``report.html`` to a folder, created if missing."""
    from anomalib_grad.report.html import write_html  # noqa: PLC0415  # loads matplotlib and jinja2

    write_csv(report, folder / "per_category.csv")
    write_json(report, folder / "per_category.json")
    write_html(report, folder / "report.html")
    logger.info("Results per category: %s", folder / "report.html")


def is_normalized(post_processor: PostProcessor | None) -> TypeGuard[PostProcessor]:
    """Return whether the post-processor normalises scores and maps to [0, 1]."""
    if post_processor is None or not post_processor.enable_normalization:
        return False
    return not bool(torch.isnan(post_processor.image_min))


def _raw_threshold(post_processor: PostProcessor | None, category: str) -> float:
    if post_processor is None:
        return math.nan
    if isinstance(post_processor, PerCategoryPostProcessor):
        return post_processor.category_threshold(category)
    return float(post_processor.image_threshold)


def _raw_range(post_processor: PostProcessor | None, category: str) -> tuple[float, float, float] | None:
    """Return the raw scores that are normalised to 0, 1 and 0.5; ``None`` without normalisation."""
    if not is_normalized(post_processor) or not isinstance(post_processor, PerCategoryPostProcessor):
        return None
    (row_of_category,) = post_processor.table[post_processor.indices_of([category])].tolist()
    row = dict(zip(STATISTICS, row_of_category, strict=True))
    return row["image_min"], row["image_max"], row["image_threshold"]


def _threshold_notes(post_processor: PostProcessor | None, categories: list[str]) -> list[str]:
    if not isinstance(post_processor, PerCategoryPostProcessor):
        return ["All categories share one pooled threshold: the model's post-processor has no thresholds per category."]
    if not post_processor.enable_thresholding:
        return ["There are no thresholds: the model's post-processor has enable_thresholding=False."]
    own = dict(zip(post_processor.categories, post_processor.category_image_threshold.tolist(), strict=True))
    fitted = [name for name, threshold in own.items() if not math.isnan(threshold)]  # in this test or not
    others = [name for name in categories if name not in fitted]
    pooled = "The pooled threshold is used for {}: fit again with their validation images."
    none = "No threshold is known for {}: validate the model."
    return [
        *_note("Thresholds are fitted for {}.", fitted),
        *_note(none if torch.isnan(post_processor.image_threshold) else pooled, others),
    ]


def _resolution(module: nn.Module, representation: str) -> int | None:
    """Return the cells per axis of a representation's grid; ``None`` without a grid, or if its axes differ."""
    cells = dict(module.named_parameters()).get(f"{representation}.grid.cells")  # (1, C, cells of each axis...)
    return cells.shape[2] if cells is not None and len(set(cells.shape[2:])) == 1 else None


def data_notes(counts: Mapping[str, Counts]) -> list[str]:
    """Return sentences on the metrics that are undefined for some categories, with the reasons."""
    seen = {name: c for name, c in counts.items() if c.n_normal + c.n_anomalous}
    no_pixels = [name for name, c in seen.items() if c.n_anomalous and not c.ranks_pixels]
    unmarked = {name: c for name, c in seen.items() if c.n_unmarked and c.ranks_pixels}
    return [
        *_note("There were no test images of {}.", [name for name in counts if name not in seen]),
        *_note(
            "No image metrics for {}: they need normal and anomalous test images.",
            [name for name, c in seen.items() if not c.ranks_images],
        ),
        *_note("Image metrics only for {}: no anomaly masks.", no_pixels),
        *(
            f"{c.n_unmarked} of {c.n_anomalous} anomalous images of {name} have a mask that is empty at the anomaly "
            "map's size: their pixels count as normal."
            for name, c in unmarked.items()
        ),
    ]


def recognition_notes(records: Sequence[CategoryRecord]) -> list[str]:
    """Return a sentence on how many test images the model assigned to the right, a wrong or no known category."""
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


def _note(sentence: str, names: Sequence[str]) -> list[str]:
    return [sentence.format(", ".join(names))] if names else []
