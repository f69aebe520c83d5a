# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Test report as one HTML page that needs no network.

This module prepares the content; ``plots`` draws the figures, and ``report_template.html`` lays out the page.
"""

import base64
import io
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from anomalib_grad.files.atomic import write_text
from anomalib_grad.thresholds.error_rates import neighbours, rate_in_words, written
from anomalib_grad.thresholds.labelled_scores import KnownImage
from anomalib_grad.thresholds.normalization import denormalize

from . import plots
from .records import METRIC_NAMES, CategoryRecord, CategoryResult, Example, TestReport

_THUMBNAIL_SIDE = 192  # pixels, twice what the page shows
_COLOURED_CURVES = 10  # more colours cannot be distinguished in one figure
_LISTED_CONFUSIONS = 10
_DASH = "\N{EN DASH}"
_DRAWN_POINTS = 3000  # per category and grid; more would only overlap


def write_html(report: TestReport, path: Path) -> None:
    """Write the report as one self-contained HTML page; the file is written whole or not at all.

    Args:
        report: The test's results.
        path: File of the page; its folder is created if it is missing.

    Raises:
        ValueError: If the categories' coordinates have different dimensions.
    """
    write_text(path, render_html(report), errors="xmlcharrefreplace")  # undecodable file names


def render_html(report: TestReport) -> str:
    """Render the page that :func:`write_html` writes; same arguments and errors."""
    results = {result.category: result for result in report.results}
    colours = dict(zip(results, plots.category_colours(len(results)), strict=True))
    grids = (
        _grid("local", report.records, colours, report.local_resolution),
        _grid("global", report.records, colours, report.global_resolution),
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        metric=partial(_written, how=".3f"), number=partial(_written, how=".4g"), quality=_quality, order=_order
    )
    template = resources.files(__package__).joinpath("report_template.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        report=report,
        results=results,
        date=datetime.now().astimezone(),
        nonce=secrets.token_urlsafe(12),
        metrics=METRIC_NAMES,
        colours=colours,
        notes=[*report.notes, *_left_out(report.records)],
        anchors={record.category: f"scores-{index}" for index, record in enumerate(report.records)},
        roc=_roc(report.records, results, colours),
        scores=[_scores(record) for record in report.records],
        rate=rate_in_words,
        recognition=_recognition(report.records),
        grids=list(filter(None, grids)),
        examples=list(filter(None, map(_gallery, report.records))),
    )


def _written(value: float, how: str) -> str:
    """Format a value; return a dash if it is not finite."""
    return format(value, how) if np.isfinite(value) else _DASH


def _order(value: float) -> str:
    """Format a value as a sort key; return an empty string if it is not finite."""
    return repr(float(value)) if np.isfinite(value) else ""


def _quality(value: float) -> float:
    """Map a metric to [0, 1] for its colour; steep near 1, where methods differ."""
    return round(float(np.clip((value - 0.6) / 0.4, 0, 1) ** 2), 3)


def _finite(record: CategoryRecord) -> tuple[np.ndarray, np.ndarray]:
    """Return the finite scores, which can be drawn, and their labels."""
    scores = np.asarray(record.scores, dtype=float)
    keep = np.isfinite(scores)
    return scores[keep], np.asarray(record.anomalous, dtype=bool)[keep]


def _left_out(records: Sequence[CategoryRecord]) -> list[str]:
    """Return a sentence for each category with scores that cannot be drawn."""
    counts = ((record.category, len(record.scores) - len(_finite(record)[0])) for record in records)
    return [
        f"{category}: {count} scores are not finite and do not appear in the figures."
        for category, count in counts
        if count
    ]


def _roc(
    records: Sequence[CategoryRecord], results: dict[str, CategoryResult], colours: dict[str, str]
) -> dict[str, Any] | None:
    """Draw all ROC curves in one figure; if there are many categories, only those of lowest AUROC in colour."""
    ranked = [(results[record.category].image_AUROC, record.category, *_finite(record)) for record in records]
    ranked = [entry for entry in ranked if 0 < entry[3].sum() < len(entry[3])]  # of both kinds
    if not ranked:
        return None
    ranked.sort(key=lambda entry: (np.isnan(entry[0]), entry[0], entry[1]))
    named = ranked[:_COLOURED_CURVES]
    palette = plots.category_colours(len(named)) if len(ranked) > len(named) else [colours[entry[1]] for entry in named]
    curves = [
        plots.RocCurve(scores, anomalous, colour) for (_, _, scores, anomalous), colour in zip_longest(ranked, palette)
    ]
    return {
        "figure": _figure_uri(plots.roc_figure(curves), "svg"),
        "legend": [(category, colour, auroc) for (auroc, category, *_), colour in zip(named, palette, strict=True)],
        "others": len(ranked) - len(named),
    }


def _scores(record: CategoryRecord) -> dict[str, Any]:
    """Return the score histograms of one category, and the outcomes of its threshold and neighbouring ones."""
    scores, anomalous = _finite(record)
    return {
        "category": record.category,
        "threshold": record.threshold,
        "neighbours": _neighbours(record),
        "figure": _figure_uri(plots.score_figure(scores, anomalous, record.threshold), "svg"),
    }


def _neighbours(record: CategoryRecord) -> list[dict[str, Any]]:
    """Return the test outcomes of thresholds near a category's own, strictest last; empty if its own is unknown.

    The thresholds are raw scores of the model, as ``python -m anomalib_grad.thresholds set --threshold`` takes them.
    """
    images = [KnownImage("", bool(truth), float(score)) for score, truth in zip(*_finite(record), strict=True)]

    def raw(score: float) -> float:
        return score if record.raw is None else denormalize(score, *record.raw)

    raw_images = [image._replace(score=raw(image.score)) for image in images]
    return [
        {
            "raw": written(raw(threshold), raw_images),
            "current": threshold == record.threshold,
            "outcome": found,
        }
        for threshold, found in neighbours(images, record.threshold)
    ]


def _recognition(records: Sequence[CategoryRecord]) -> dict[str, Any] | None:
    """Return the confusion matrix of the recognised categories; ``None`` if none were recognised."""
    counts = {
        record.category: Counter(str(name) for name in record.recognised)
        for record in records
        if record.recognised is not None and len(record.recognised)
    }
    if not counts:
        return None
    correct = sum(taken[category] for category, taken in counts.items())
    total = sum(taken.total() for taken in counts.values())
    confusions = [
        (count, category, name)
        for category, taken in counts.items()
        for name, count in taken.items()
        if name != category
    ]
    return {
        "columns": [*counts, *sorted(set().union(*counts.values()) - set(counts))],
        "rows": counts,
        "accuracy": correct / total,
        "confusions": sorted(confusions, key=lambda entry: (-entry[0], entry[1:]))[:_LISTED_CONFUSIONS],
    }


def _grid(
    kind: Literal["local", "global"], records: Sequence[CategoryRecord], colours: dict[str, str], resolution: int | None
) -> dict[str, Any] | None:
    """Draw the coordinates of all categories on one grid, and highlight each in turn; ``None`` without coordinates."""
    labelled = [(record.category, *labels) for record in records if (labels := _coordinates(kind, record)) is not None]
    if not labelled:
        return None
    if len(dimensions := {coordinates.shape[1] for _, coordinates, _ in labelled}) > 1:
        raise ValueError(
            f"The {kind} coordinates have {sorted(dimensions)} columns: record those of all categories with one model."
        )
    names = [category for category, _, _ in labelled]
    group = np.repeat(np.arange(len(names)), [len(coordinates) for _, coordinates, _ in labelled])  # (n,)
    anomalous = np.concatenate([flags for _, _, flags in labelled])  # (n,)
    planar = plots.planar_coordinates(np.concatenate([points for _, points, _ in labelled]), group, len(names))
    point_colours = np.asarray([colours[name] for name in names])[group]
    figure = plots.coordinate_figure(
        planar, anomalous, list(point_colours), resolution=resolution, point_size=5 if kind == "local" else 18
    )
    return {
        "kind": kind,
        "figure": _figure_uri(figure, "webp"),
        "dimensions": planar.dimensions,
        "explained": planar.explained,
        "resolution": resolution,
        "points": len(group),
        "sampled": _DRAWN_POINTS if np.bincount(group).max() == _DRAWN_POINTS else None,
        "categories": [
            (name, _figure_uri(plots.highlight_figure(planar, anomalous, group == index, colours[name]), "webp"))
            for index, name in enumerate(names)
        ]
        if len(names) > 1
        else [],
    }


def _coordinates(kind: Literal["local", "global"], record: CategoryRecord) -> tuple[np.ndarray, np.ndarray] | None:
    """Return finite coordinates (n, D) and labels (n,) of a category, sampled if there are many, or ``None``."""
    coordinates = record.global_coordinates if kind == "global" else record.local_coordinates
    labels = record.anomalous if kind == "global" else record.local_anomalous
    if coordinates is None:
        return None
    anomalous = np.zeros(len(coordinates), dtype=bool) if labels is None else np.asarray(labels, dtype=bool)
    keep = np.flatnonzero(np.isfinite(coordinates).all(axis=1))
    if len(keep) > _DRAWN_POINTS:
        keep = np.random.default_rng(0).choice(keep, _DRAWN_POINTS, replace=False)
    return (coordinates[keep], anomalous[keep]) if len(keep) else None


def _gallery(record: CategoryRecord) -> dict[str, Any] | None:
    """Return the example images of one category; ``None`` if there are none."""
    sections = [
        ("Clearest anomalies", record.best),
        ("Missed or nearly missed", record.worst),
        ("False alarms and normal images with the highest scores", record.false_alarms),
    ]
    shown = [
        (title, [_tile(example, record.threshold) for example in examples]) for title, examples in sections if examples
    ]
    return {"category": record.category, "sections": shown} if shown else None


def _tile(example: Example, threshold: float) -> dict[str, Any]:
    """Return one example with its thumbnail, overlay, name and verdict."""
    thumbnail = Image.fromarray(example.image).convert("RGB")
    thumbnail.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    overlay = plots.heatmap_overlay(np.asarray(thumbnail), example.anomaly_map, example.mask)
    return {
        "image": _image_uri(thumbnail),
        "overlay": _image_uri(Image.fromarray(overlay)),
        "example": example,
        "name": "/".join(re.split(r"[\\/]", example.path)[-2:]),  # the folder names the kind of defect
        "verdict": _verdict(example, threshold),
    }


def _verdict(example: Example, threshold: float) -> str:
    """Name the outcome of an image at the threshold; empty without a finite score and threshold."""
    if not (np.isfinite(threshold) and np.isfinite(example.score)):
        return ""
    if example.score > threshold:
        return "found" if example.anomalous else "false alarm"
    return "missed" if example.anomalous else "passed"


def _figure_uri(figure: Figure, file_format: Literal["svg", "webp"]) -> str:
    kind = "svg+xml" if file_format == "svg" else file_format
    return _data_uri(kind, plots.figure_bytes(figure, file_format))


def _image_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="webp", quality=80)
    return _data_uri("webp", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
