# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The report's figures show what they are given."""

import io
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_grad.report import plots

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [0, 1, 10, 11, 60])
def test_every_category_has_its_own_colour(count: int) -> None:
    colours = plots.category_colours(count)
    assert len(colours) == len(set(colours)) == count
    assert all(re.fullmatch(r"#[0-9a-f]{6}", colour) for colour in colours)


def test_planar_coordinates_of_one_dimension_separate_the_groups() -> None:
    coordinates = RNG.uniform(-1, 1, (6, 1))
    planar = plots.planar_coordinates(coordinates, np.array([0, 0, 1, 1, 2, 2]), 3)
    np.testing.assert_array_equal(planar.points[:, 0], coordinates[:, 0])
    np.testing.assert_allclose(planar.points[:, 1], [2 / 3, 2 / 3, 0, 0, -2 / 3, -2 / 3], atol=1e-12)


def test_planar_coordinates_of_two_dimensions_stay_as_they_are() -> None:
    coordinates = RNG.uniform(-1, 1, (5, 2))
    planar = plots.planar_coordinates(coordinates, np.zeros(5, dtype=int), 1)
    np.testing.assert_array_equal(planar.points, coordinates)
    assert (planar.dimensions, planar.explained) == (2, 1.0)


@pytest.mark.parametrize("dimensions", [3, 4])
def test_principal_plane_keeps_the_distances_of_data_that_lie_in_a_plane(dimensions: int) -> None:
    flat = RNG.normal(size=(20, 2))
    basis, _ = np.linalg.qr(RNG.normal(size=(dimensions, dimensions)))
    planar = plots.planar_coordinates(flat @ basis[:2] + 0.3, np.zeros(20, dtype=int), 1)
    assert planar.explained == pytest.approx(1)
    assert planar.dimensions == dimensions

    def distances(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    np.testing.assert_allclose(distances(planar.points), distances(flat), atol=1e-10)


def test_principal_plane_says_how_much_it_leaves_out() -> None:
    corners = np.concatenate([np.eye(3), -np.eye(3)])  # the same variance in all three directions
    assert plots.planar_coordinates(corners, np.zeros(6, dtype=int), 1).explained == pytest.approx(2 / 3)


def test_principal_plane_of_a_single_point_is_the_origin() -> None:
    planar = plots.planar_coordinates(np.full((1, 3), 0.5), np.zeros(1, dtype=int), 1)
    np.testing.assert_allclose(planar.points, 0)


@pytest.mark.parametrize("shape", [(3,), (3, 0), (3, 2, 2)])
def test_planar_coordinates_refuse_what_is_no_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Pass coordinates as a matrix"):
        plots.planar_coordinates(np.zeros(shape), np.zeros(3, dtype=int), 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30))
def test_area_under_the_roc_points_is_the_chance_to_rank_a_pair_right(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], dtype=float)
    anomalous = np.array([flag for _, flag in pairs])
    points = plots.roc_points(scores, anomalous)
    if anomalous.all() or not anomalous.any():
        assert points is None
        return
    assert points is not None
    difference = scores[anomalous][:, None] - scores[~anomalous][None]
    expected = (difference > 0).mean() + 0.5 * (difference == 0).mean()
    assert np.trapezoid(points[1], points[0]) == pytest.approx(expected)


def test_roc_figure_draws_grey_curves_behind_coloured_ones() -> None:
    scores, labels = np.array([0.1, 0.4, 0.8]), np.array([False, True, True])
    figure = plots.roc_figure(
        [
            plots.RocCurve(scores, labels, "#ff0000"),
            plots.RocCurve(scores, labels, None),
            plots.RocCurve(scores, np.zeros(3, dtype=bool), "#00ff00"),  # no curve without anomalies
        ]
    )
    lines = figure.axes[0].get_lines()[1:]  # the first is the diagonal
    assert [line.get_color() for line in lines] == [plots._FAINT, "#ff0000"]


def test_score_figure_counts_every_image_and_marks_the_threshold() -> None:
    scores = np.array([0.1, 0.1, 0.2, 0.9, 0.7])
    anomalous = np.array([False, False, False, True, True])
    histogram = plots.score_figure(scores, anomalous, 0.5).axes[0]
    heights = [sum(bar.get_height() for bar in container) for container in histogram.containers]
    assert heights == [3, 2]
    assert [list(line.get_xdata()) for line in histogram.get_lines()] == [[0.5, 0.5]]


def test_score_figure_shows_a_threshold_beyond_all_scores() -> None:
    histogram = plots.score_figure(np.array([0.1, 0.2]), np.array([False, True]), 3.0).axes[0]
    assert histogram.get_xlim()[1] >= 3.0


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, 0.5]])
def test_score_figure_works_without_threshold_anomalies_or_spread(scores: list[float]) -> None:
    figure = plots.score_figure(np.array(scores), np.zeros(len(scores), dtype=bool), float("nan"))
    assert not figure.axes[0].get_lines()
    assert figure.axes[1].texts[0].get_text().startswith("needs normal")
    assert plots.figure_bytes(figure, "svg")


@pytest.mark.parametrize(("dimensions", "lines"), [(1, (5, 2)), (2, (5, 5)), (3, None)])
def test_coordinate_figure_draws_all_points_and_the_cells(dimensions: int, lines: tuple[int, int] | None) -> None:
    anomalous = np.array([False] * 7 + [True] * 3)
    planar = plots.planar_coordinates(RNG.uniform(-1, 1, (10, dimensions)), np.zeros(10, dtype=int), 1)
    figure = plots.coordinate_figure(planar, anomalous, ["#ff0000"] * 10, resolution=4)
    *borders, normal, crosses = figure.axes[0].collections
    assert (len(normal.get_offsets()), len(crosses.get_offsets())) == (7, 3)
    assert tuple(len(border.get_segments()) for border in borders) == (lines or ())


def test_highlight_figure_puts_one_category_before_a_sample_of_the_others() -> None:
    planar = plots.PlanarCoordinates(RNG.uniform(-1, 1, (9000, 2)), 2, 1.0)
    chosen = np.arange(9000) < 50
    anomalous = np.arange(9000) % 5 == 0
    *_, others, normal, crosses = plots.highlight_figure(planar, anomalous, chosen, "#ff0000").axes[0].collections
    assert 1000 <= len(others.get_offsets()) <= 2000
    assert (len(normal.get_offsets()), len(crosses.get_offsets())) == (40, 10)


def test_figures_are_standalone_images_with_a_transparent_background() -> None:
    figure = plots.roc_figure([])
    svg = plots.figure_bytes(figure, "svg")
    assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314 - written by matplotlib just now
    assert b"<script" not in svg
    image = Image.open(io.BytesIO(plots.figure_bytes(figure, "webp")))
    assert image.format == "WEBP"
    assert image.convert("RGBA").getpixel((0, 0))[3] == 0


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, float("nan")])
def test_overlay_leaves_the_image_alone_where_the_map_is_low(value: float) -> None:
    image = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    overlay = plots.heatmap_overlay(image, np.full((12, 20), value, dtype=np.float32), np.zeros((12, 20), dtype=bool))
    np.testing.assert_array_equal(overlay, image)


def test_overlay_turns_red_where_the_map_is_high() -> None:
    image = np.full((10, 10, 3), 100, dtype=np.uint8)
    anomaly_map = np.zeros((10, 10), dtype=np.float32)
    anomaly_map[:, 5:] = 1
    overlay = plots.heatmap_overlay(image, anomaly_map, None)
    np.testing.assert_array_equal(overlay[:, :5], image[:, :5])
    red, green, blue = overlay[:, 5:].reshape(-1, 3).T.astype(int)
    assert (red - green > 60).all()
    assert (red - blue > 60).all()


def test_overlay_outlines_the_ground_truth_outside_the_defect() -> None:
    image = np.full((20, 20, 3), 100, dtype=np.uint8)
    mask = np.zeros((20, 20), dtype=bool)
    mask[8:12, 8:12] = True
    overlay = plots.heatmap_overlay(image, np.zeros((20, 20)), mask)
    assert (overlay[mask] == 100).all()  # the defect itself stays visible
    assert (overlay[7, 7:13] == 255).all()
    assert (overlay[6, 6:14] == 20).all()
    assert (overlay[:5] == 100).all()


def test_overlay_fits_map_and_mask_to_the_image() -> None:
    image = np.zeros((16, 32, 3), dtype=np.uint8)
    overlay = plots.heatmap_overlay(image, np.ones((4, 4), dtype=np.float32), np.ones((8, 8), dtype=bool))
    assert overlay.shape == image.shape
    assert (overlay[..., 0] > 80).all()
