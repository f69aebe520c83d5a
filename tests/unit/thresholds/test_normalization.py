# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from anomalib.post_processing import PostProcessor
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc

from anomalib_grad.thresholds.normalization import denormalize, place_range
from anomalib_grad.thresholds.post_processor import normalize

NAN = float("nan")
score = st.floats(min_value=-1e3, max_value=1e3, width=32)


def tensors(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def test_minimum_and_threshold_are_fixed_points_and_scores_linear_in_between() -> None:
    preds = torch.tensor([2.0, 3.0, 2.5, 6.0, 1.0])
    assert normalize(preds, *tensors(2, 9, 3)).tolist() == [0.0, 0.5, 0.25, 0.75, 0.0]


def test_scores_beyond_the_range_are_told_apart() -> None:
    preds = torch.tensor([8.7, 9.0, 16.0, 50.0, 500.0, float("inf")])
    normalized = normalize(preds, *tensors(2, 9, 3))
    assert (normalized.diff() > 0).all()
    assert (normalized > 0.9).all()
    assert normalized[-1] == 1


# A part of the range is empty, or wider than what rounding leaves of a threshold.
positions = st.sampled_from([0.0, 1.0]) | st.floats(1e-4, 1 - 1e-4)


@given(st.floats(0, 0.9999), score, st.floats(0.1, 100), positions)
def test_raw_scores_are_found_again(value: float, low: float, width: float, position: float) -> None:
    limits = low, low + width, low + position * width
    raw = torch.tensor(denormalize(value, *limits), dtype=torch.float64)
    given = (torch.tensor(limit, dtype=torch.float64) for limit in limits)
    assert normalize(raw, *given).item() == pytest.approx(value, abs=1e-6)


@given(st.lists(score, min_size=2, max_size=20), st.floats(0, 1, width=32))
def test_order_survives_and_verdicts_agree(scores: list[float], position: float) -> None:
    preds = torch.tensor(scores)
    low, high = preds.min(), preds.max()
    threshold = low + position * (high - low)
    normalized = normalize(preds, low, high, threshold)
    assert torch.isfinite(normalized).all()
    assert (normalized >= 0).all()
    assert (normalized <= 1).all()
    assert (normalized[preds.argsort()].diff() >= 0).all()
    assert (preds[normalized > 0.5] > threshold).all()


def test_auroc_is_that_of_the_raw_scores_where_anomalibs_is_not() -> None:
    preds, labels = torch.tensor([1.0, 1.1, 1.2, 1.3, 9.0]), torch.tensor([0, 0, 1, 1, 1])
    low, high, threshold = preds.min(), preds.max(), torch.tensor(8.0)  # anomalib clips all but the last to zero
    assert binary_auroc(normalize(preds, low, high, threshold), labels) == binary_auroc(preds, labels) == 1.0
    assert binary_auroc(PostProcessor._normalize(preds, low, high, threshold), labels) < 1.0


@pytest.mark.parametrize("threshold", [1.0, 5.0])
def test_threshold_at_an_extreme(threshold: float) -> None:
    normalized = normalize(torch.tensor([1.0, 3.0, 5.0]), *tensors(1, 5, threshold))
    assert torch.isfinite(normalized).all()
    assert (normalized.diff() > 0).all()


def test_no_range_gives_half_at_the_threshold() -> None:
    assert normalize(torch.tensor([4.0, 4.0]), *tensors(4, 4, 4)).tolist() == [0.5, 0.5]
    assert denormalize(0.75, 4, 4, 4) == normalize(torch.tensor(4.5), *tensors(4, 4, 4)).item() + 3.75 == 4.5
    low, middle, high = place_range(5.0, 0.3, 4.0, 4.0)
    assert low < middle < high


@pytest.mark.parametrize("level", [0.3, 0.7, 0.95])
def test_a_score_placed_at_a_level_is_not_above_it_in_float32(level: float) -> None:
    for threshold in torch.linspace(0.5, 9.5, 50).tolist():
        low, middle, high = place_range(threshold, level, 0.0, 10.0)
        placed = normalize(torch.tensor(threshold), *tensors(low, high, middle)).item()
        assert level - 1e-5 < placed <= torch.tensor(level)


def test_without_threshold_the_middle_without_range_the_raw_score() -> None:
    assert normalize(torch.tensor([1.0, 2.0, 2.5]), *tensors(1, 3, NAN)).tolist() == [0.0, 0.5, 0.75]
    assert normalize(torch.tensor([7.0]), *tensors(NAN, NAN, NAN)).tolist() == [7.0]
