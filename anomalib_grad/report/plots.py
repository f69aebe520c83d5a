# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of the test report.

Everything is drawn with matplotlib's object-oriented API (no pyplot state), so a report can be written from any thread
and without a display. Figures contain only numbers and fixed English labels: names of categories and files belong to
the page, which renders every script and escapes them.
"""

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageFilter
from sklearn.metrics import roc_curve

NORMAL_COLOUR = "#3574c9"
ANOMALOUS_COLOUR = "#e2592b"
_INK = "#3c4450"
_FAINT = "#c9ced6"
_BACKGROUND_POINTS = 2000  # grey points behind one category: enough to show where the others lie
_DISTINCT = (
    "#3574c9",
    "#e2882b",
    "#3a9c5a",
    "#d14545",
    "#8a5fc7",
    "#8c6239",
    "#d667ab",
    "#6f7783",
    "#a8a81f",
    "#1ba3b5",
)


def category_colours(count: int) -> list[str]:
    """Return a distinct colour for each category.

    Returns:
        ``count`` colours as ``#rrggbb``; neighbours in the list differ clearly.
    """
    if count <= len(_DISTINCT):
        return list(_DISTINCT[:count])
    shades = ((0.45, 0.75), (0.62, 0.70), (0.33, 0.60))  # lightness, saturation
    return [mpl.colors.to_hex(colorsys.hls_to_rgb(index / count, *shades[index % 3])) for index in range(count)]


@dataclass(frozen=True)
class PlanarCoordinates:
    """Coordinates of any dimension, projected to a plane for drawing.

    Attributes:
        points: (n, 2) positions.
        dimensions: Original dimension D of the coordinates.
        explained: Share of the variance that the plane explains, in [0, 1]; 1 for D <= 2.
    """

    points: np.ndarray
    dimensions: int
    explained: float


def planar_coordinates(coordinates: np.ndarray, group: np.ndarray, groups: int) -> PlanarCoordinates:
    """Project (n, D) coordinates to a plane.

    D = 2 is unchanged. For D = 1, the height only separates the groups. For D >= 3, the first two principal components
    span the plane.

    Args:
        coordinates: (n, D) finite values.
        group: (n,) integer index of the group (category) of every point, in [0, groups).
        groups: Number of groups.

    Raises:
        ValueError: If ``coordinates`` is not a matrix with at least one column.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] == 0:  # noqa: PLR2004
        raise ValueError(f"Pass coordinates as a matrix (n, D) with D >= 1; got shape {coordinates.shape}.")
    dimensions = coordinates.shape[1]
    if dimensions == 1:
        height = 1 - (2 * group + 1) / groups
        return PlanarCoordinates(np.stack([coordinates[:, 0], height], axis=1), 1, 1.0)  # (n, 2)
    if dimensions == 2:  # noqa: PLR2004
        return PlanarCoordinates(coordinates, 2, 1.0)
    centred = coordinates - coordinates.mean(axis=0)
    variance, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    total = variance.sum()
    explained = float(variance[-2:].sum() / total) if total > 0 else 1.0
    return PlanarCoordinates(centred @ directions[:, :-3:-1], dimensions, explained)  # (n, 2)


def roc_points(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Compute the corners of an ROC curve.

    Args:
        scores: (n,) finite anomaly scores.
        anomalous: (n,) bool labels.

    Returns:
        False positive rates and true positive rates in [0, 1]; ``None`` unless both classes are present.
    """
    if anomalous.all() or not anomalous.any():
        return None
    false_positive_rate, true_positive_rate, _ = roc_curve(anomalous, scores)
    return false_positive_rate, true_positive_rate


@dataclass(frozen=True)
class RocCurve:
    """A curve of :func:`roc_figure`, drawn in grey behind the others if ``colour`` is ``None``."""

    scores: np.ndarray
    anomalous: np.ndarray
    colour: str | None


def roc_figure(curves: Sequence[RocCurve]) -> Figure:
    """Draw the ROC curves of many categories in one square figure."""
    figure, axes = _square_figure(4.6)
    _prepare_roc(axes)
    for curve in sorted(curves, key=lambda curve: curve.colour is not None):  # coloured curves on top
        points = roc_points(curve.scores, curve.anomalous)
        if points is not None:
            width, colour = (0.8, _FAINT) if curve.colour is None else (1.7, curve.colour)
            axes.plot(*points, color=colour, linewidth=width, solid_joinstyle="round")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    return figure


def score_figure(scores: np.ndarray, anomalous: np.ndarray, threshold: float) -> Figure:
    """Draw the score histograms of one category with its threshold, and its ROC curve beside them.

    Args:
        scores: (n,) finite anomaly scores.
        anomalous: (n,) bool labels.
        threshold: Image threshold on the scale of the scores; not drawn if it is not finite.
    """
    figure = _figure(4.4, 1.75)
    histogram, roc = figure.subplots(1, 2, width_ratios=(2.1, 1))
    shown = np.append(scores, threshold) if np.isfinite(threshold) else scores
    if shown.size:
        edges = np.histogram_bin_edges(shown, bins=28)
        for flag, colour in ((False, NORMAL_COLOUR), (True, ANOMALOUS_COLOUR)):
            histogram.hist(scores[anomalous == flag], bins=list(edges), color=colour, alpha=0.62)
    if np.isfinite(threshold):
        histogram.axvline(threshold, color=_INK, linewidth=1.1, linestyle=(0, (4, 2)))
    _style(histogram)
    histogram.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    histogram.set_xlabel("anomaly score")
    histogram.set_ylabel("images")
    _prepare_roc(roc)
    roc.set_xticks([0, 1])
    roc.set_yticks([0, 1])
    points = roc_points(scores, anomalous)
    if points is None:
        roc.text(0.5, 0.5, "needs normal and\nanomalous images", ha="center", va="center", fontsize=6.5, color=_INK)
    else:
        roc.fill_between(*points, color=ANOMALOUS_COLOUR, alpha=0.12, linewidth=0)
        roc.plot(*points, color=ANOMALOUS_COLOUR, linewidth=1.5)
    roc.set_xlabel("false pos. rate")
    roc.set_ylabel("true pos. rate")
    return figure


def coordinate_figure(
    planar: PlanarCoordinates,
    anomalous: np.ndarray,
    colours: Sequence[str],
    *,
    resolution: int | None = None,
    point_size: float = 14.0,
) -> Figure:
    """Draw coordinates on their grid: discs for normal points, crosses for anomalous ones.

    Args:
        planar: (n, 2) points.
        anomalous: (n,) bool labels.
        colours: n colours, one for every point.
        resolution: Cells of the grid per dimension; their borders are drawn if D <= 2.
        point_size: Area of a disc in square points.
    """
    figure, axes = _square_figure(5.0)
    _prepare_grid(axes, planar.dimensions, resolution)
    colour = np.asarray(colours, dtype=object)
    order = np.random.default_rng(0).permutation(len(planar.points))  # no category covers the others
    for flag, marker, size, alpha in ((False, "o", point_size, 0.55), (True, "x", 1.5 * point_size, 0.9)):
        chosen = order[anomalous[order] == flag]
        axes.scatter(
            planar.points[chosen, 0],
            planar.points[chosen, 1],
            s=size,
            c=list(colour[chosen]),
            marker=marker,
            alpha=alpha,
            linewidths=0.9 if flag else 0,
        )
    return figure


def highlight_figure(planar: PlanarCoordinates, anomalous: np.ndarray, chosen: np.ndarray, colour: str) -> Figure:
    """Draw one category's coordinates in colour, in front of a grey sample of the others.

    Args:
        planar: (n, 2) points of all categories.
        anomalous: (n,) bool labels.
        chosen: (n,) bool, whether a point belongs to the category.
        colour: The category's colour.
    """
    figure, axes = _square_figure(1.7)
    _prepare_grid(axes, planar.dimensions, None)
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
    others = np.flatnonzero(~chosen)
    others = others[:: 1 + len(others) // _BACKGROUND_POINTS]
    red, green, blue = mpl.colors.to_rgb(colour)
    darker = mpl.colors.to_hex((0.6 * red, 0.6 * green, 0.6 * blue))
    x, y = planar.points.T
    normal, marked = chosen & ~anomalous, chosen & anomalous
    axes.scatter(x[others], y[others], s=3, color=_FAINT, linewidths=0, alpha=0.6)
    axes.scatter(x[normal], y[normal], s=7, color=colour, linewidths=0, alpha=0.7)
    axes.scatter(x[marked], y[marked], s=9, color=darker, marker="x", linewidths=0.8)
    return figure


def heatmap_overlay(image: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Overlay an anomaly map on its image and draw the outline of the ground truth.

    Where the map is low, the image is unchanged, so that the detected regions stand out.

    Args:
        image: (h, w, 3) uint8.
        anomaly_map: (h', w') in [0, 1], resized to the image; values outside the range are clipped.
        mask: (h'', w'') bool ground truth, or ``None``.

    Returns:
        (h, w, 3) uint8.
    """
    size = (image.shape[1], image.shape[0])
    heat = np.nan_to_num(np.clip(anomaly_map, 0, 1)).astype(np.float32)
    heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
    weight = 0.8 * np.clip((heat - 0.15) / 0.5, 0, 1)[..., None]  # (h, w, 1)
    tint = mpl.colormaps["turbo"](0.55 + 0.38 * heat)[..., :3] * 255  # yellow to red
    overlay = ((1 - weight) * image + weight * tint).round().astype(np.uint8)
    if mask is not None and mask.any():
        region = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
        inner = np.asarray(region.filter(ImageFilter.MaxFilter(3))) > 0
        outer = np.asarray(region.filter(ImageFilter.MaxFilter(5))) > 0
        overlay[outer & ~inner] = 20  # a dark line outside the light one is visible on any background
        overlay[inner & (np.asarray(region) == 0)] = 255
    return overlay


def figure_bytes(figure: Figure, file_format: Literal["svg", "webp"]) -> bytes:
    """Render a figure with a transparent background; SVG for few points, WebP for many."""
    buffer = io.BytesIO()
    if file_format == "svg":
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    else:
        figure.savefig(
            buffer,
            format="webp",
            transparent=True,
            dpi=160,
            bbox_inches="tight",
            pad_inches=0.02,
            pil_kwargs={"quality": 88, "method": 4},
        )
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    """Create a figure of the given size in inches that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr, call-arg]
    return figure


def _square_figure(side: float) -> tuple[Figure, Axes]:
    figure = _figure(side, side)
    axes = figure.add_subplot()
    axes.set_aspect("equal", adjustable="box")
    return figure, axes


def _style(axes: Axes) -> None:
    """Apply the common style to axes: thin lines, small text, no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=_FAINT, linewidth=0.8)
    axes.tick_params(labelsize=7.5, colors=_INK, length=2.5, width=0.7)
    axes.xaxis.label.set(size=8, color=_INK)
    axes.yaxis.label.set(size=8, color=_INK)


def _prepare_roc(axes: Axes) -> None:
    _style(axes)
    axes.set_aspect("equal", adjustable="box")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.8, linestyle=(0, (2, 2)))


def _prepare_grid(axes: Axes, dimensions: int, resolution: int | None) -> None:
    """Set the axes, limits and cell borders of a coordinate figure."""
    _style(axes)
    if dimensions > 2:  # noqa: PLR2004
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel="principal component 1", ylabel="principal component 2")
        return
    axes.spines[["left", "bottom"]].set_visible(False)  # the cells' borders frame the grid
    axes.set(xlim=(-1.04, 1.04), ylim=(-1.04, 1.04), xticks=[-1, -0.5, 0, 0.5, 1], xlabel="coordinate 1")
    if dimensions == 1:
        axes.set(yticks=[])
    else:
        axes.set(yticks=[-1, -0.5, 0, 0.5, 1], ylabel="coordinate 2")
    borders = np.linspace(-1, 1, (resolution or 1) + 1)
    axes.vlines(borders, -1, 1, color=_FAINT, linewidth=0.7, zorder=0)
    axes.hlines(borders if dimensions == 2 else [-1, 1], -1, 1, color=_FAINT, linewidth=0.7, zorder=0)  # noqa: PLR2004
