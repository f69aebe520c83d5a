# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds by a rate of false alarms: what they promise, on every kind of distribution, without any anomaly."""

import math

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anomalib_grad.data.dataclasses import CategoryImageBatch
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor
from anomalib_grad.thresholds.rules import ABOVE, false_alarm_threshold, highest_normal_threshold, moved

DISTRIBUTIONS = {
    "normal": lambda random, n: random.normal(size=n),
    "gamma": lambda random, n: random.gamma(2.0, size=n),
    "uniform": lambda random, n: random.uniform(size=n),
    "lognormal": lambda random, n: random.lognormal(sigma=0.5, size=n),
}


def realised_rate(draw, n: int, rate: float, repetitions: int = 3000) -> float:
    """Mean share of new normal scores above the threshold that n old ones gave."""
    random = np.random.default_rng(0)
    fresh = np.sort(draw(random, 100_000))
    thresholds = [false_alarm_threshold(draw(random, n).tolist(), rate) for _ in range(repetitions)]
    return float(1 - np.searchsorted(fresh, thresholds).mean() / len(fresh))


@pytest.mark.parametrize("draw", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
@pytest.mark.parametrize(("n", "rate"), [(19, 0.1), (50, 0.05), (200, 0.01)])
def test_the_promise_holds_where_the_scores_suffice(draw, n: int, rate: float) -> None:
    assert 0.5 * rate < realised_rate(draw, n, rate) < 1.1 * rate


@pytest.mark.parametrize("draw", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_the_tail_goes_on_below_the_rates_that_the_scores_show(draw) -> None:
    assert realised_rate(draw, 30, 0.01) < 0.025


scores = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40)


@given(scores=scores, low=st.floats(0.001, 0.4), high=st.floats(0.4, 0.9))
def test_a_lower_rate_never_has_a_lower_threshold(scores: list[float], low: float, high: float) -> None:
    assert false_alarm_threshold(scores, low) >= false_alarm_threshold(scores, high)


@given(scores=scores, rate=st.floats(0.001, 0.9), scale=st.sampled_from([0.25, 4.0]), shift=st.integers(-8, 8))
def test_the_unit_does_not_matter(scores: list[float], rate: float, scale: float, shift: int) -> None:
    moved = false_alarm_threshold([scale * score + shift for score in scores], rate)
    expected = scale * false_alarm_threshold(scores, rate) + shift
    assert moved == pytest.approx(
        expected, rel=1e-6, abs=1e-3 + ABOVE * (abs(expected) + scale * max(map(abs, scores)))
    )


def test_few_scores() -> None:
    assert math.isnan(false_alarm_threshold([], 0.1))
    assert 14 < false_alarm_threshold([float(score) for score in range(1, 25)], 0.44) < 15, "25 x 0.56 rounds above 14"
    for equal in ([2.0], [2.0, 2.0, 2.0]):
        assert 2 < false_alarm_threshold(equal, 0.01) <= 2 * (1 + ABOVE)


def test_the_tail_is_exponential_and_begins_at_the_largest_quarter() -> None:
    eight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert false_alarm_threshold(eight, 0.01) == pytest.approx(6 + 1.5 * math.log(2 / 0.09))


@pytest.mark.parametrize(("scores", "rate"), [([1.0, 1.00001], 0.7), ([1.0, 1.0, 2.0], 0.8)])
def test_a_threshold_lies_above_its_score_and_below_the_next_however_close(scores: list[float], rate: float) -> None:
    assert 1 < false_alarm_threshold(scores, rate) < scores[-1]


@pytest.mark.parametrize(
    ("threshold", "before", "after", "expected"),
    [
        (3.0, [4.0, 2.0], [20.0, 40.0], 30.0),
        (1.0, [2.0, 4.0], [20.0, 60.0], 10.0),
        (5.0, [2.0, 4.0], [20.0, 60.0], 75.0),
        (-3.0, [-2.0, 0.0], [5.0, 7.0], 4.0),
        (3.0, [], [], 3.0),
    ],
)
def test_a_threshold_moves_with_the_scores(
    threshold: float, before: list[float], after: list[float], expected: float
) -> None:
    assert moved(threshold, before, after) == pytest.approx(expected)


@pytest.mark.parametrize(("rate", "alarms"), [(0.25, 1), (0.1, 0)])
def test_whoever_rounds_the_scores_otherwise_counts_as_many_false_alarms(rate: float, alarms: int) -> None:
    scores = [0.8, 0.81, 0.83, 0.86, 0.9, 0.93, 0.93, 1.1]
    for threshold, most in ((false_alarm_threshold(scores, rate), alarms), (highest_normal_threshold(scores), 0)):
        for rounding in (-2e-6, 0.0, 2e-6):
            assert sum(score * (1 + rounding) > threshold for score in scores) == most


def test_scores_that_are_no_number_move_no_threshold() -> None:
    assert false_alarm_threshold([1.0, 1.0, math.inf], 0.5) == 1 + ABOVE
    assert highest_normal_threshold([1.0, math.inf]) == math.inf


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="false_alarm_rate must lie between 0 and 1"):
        PerCategoryPostProcessor(false_alarm_rate=rate)


class NotChecking:
    """As much of a trainer as the post-processor looks at."""

    sanity_checking = False
    datamodule = None


def normal_batch(scores: Tensor, category: str | None) -> ImageBatch:
    """Normal images whose maps have twice the score as their largest value."""
    maps = torch.zeros(len(scores), 4, 4)
    maps[:, 1, 2] = 2 * scores
    fields = {
        "image": torch.zeros(len(scores), 3, 4, 4),
        "gt_label": torch.zeros(len(scores), dtype=torch.bool),
        "gt_mask": torch.zeros(len(scores), 4, 4, dtype=torch.bool),
        "pred_score": scores,
        "anomaly_map": maps,
    }
    return ImageBatch(**fields) if category is None else CategoryImageBatch(**fields, category=[category] * len(scores))


def validated(*batches: ImageBatch) -> PerCategoryPostProcessor:
    post_processor = PerCategoryPostProcessor(false_alarm_rate=0.1)
    for batch in batches:
        post_processor.on_validation_batch_end(NotChecking(), None, batch)
    post_processor.on_validation_epoch_end(NotChecking(), None)
    return post_processor


@pytest.mark.parametrize("masks", [True, False])
def test_every_category_has_its_own_and_new_products_the_pooled_one(masks: bool) -> None:
    low, high = torch.arange(1.0, 20.0), torch.arange(101.0, 120.0)
    batches = normal_batch(low, "nut"), normal_batch(high, "pin")
    for batch in batches if not masks else ():
        batch.gt_mask = None
    post_processor = validated(*batches)
    assert post_processor.image_thresholds.tolist() == pytest.approx([18, 118, 117], rel=1.1 * ABOVE)
    assert post_processor.pixel_thresholds.tolist() == pytest.approx([36, 236, 234], rel=1.1 * ABOVE)
    restored = PerCategoryPostProcessor()
    restored.load_checkpoint_config(post_processor.checkpoint_config())
    restored.load_state_dict(post_processor.state_dict())
    assert restored.false_alarm_rate == 0.1
    assert restored.image_thresholds.tolist() == pytest.approx([18, 118, 117], rel=1.1 * ABOVE)


def test_too_few_images_for_a_rate_are_named(caplog: pytest.LogCaptureFixture) -> None:
    validated(normal_batch(torch.arange(1.0, 9.0), "nut"), normal_batch(torch.arange(1.0, 10.0), "pin"))
    said = "'nut' has only 8 normal validation images, from which a false_alarm_rate below 0.11 is extrapolated."
    assert f"Category {said}" in caplog.text
    assert "'pin'" not in caplog.text


def test_it_works_without_categories(caplog: pytest.LogCaptureFixture) -> None:
    post_processor = validated(normal_batch(torch.arange(1.0, 20.0), None))
    assert post_processor.image_threshold == pytest.approx(18, rel=1.1 * ABOVE)
    assert post_processor.pixel_threshold == pytest.approx(36, rel=1.1 * ABOVE)
    assert not caplog.records, "it needs no anomalous images"
