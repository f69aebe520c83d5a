# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What thresholds do to known images, and how sure that is."""

import math

import numpy as np
import pytest

from anomalib_grad.thresholds.error_rates import extrapolates, interval, neighbours, outcome, rate_in_words, written
from anomalib_grad.thresholds.labelled_scores import KnownImage, from_plain, thinned, to_plain


def images(normal: list[float], anomalous: list[float] = []) -> list[KnownImage]:  # noqa: B006  # read only
    known = [KnownImage(f"good/{score}.png", anomalous=False, score=score) for score in normal]
    return known + [KnownImage(f"bad/{score}.png", anomalous=True, score=score) for score in anomalous]


def test_intervals_are_those_of_clopper_and_pearson():
    assert interval(0, 20) == pytest.approx((0, 0.1684), abs=1e-4)  # the rule of tables: 1 - 0.025 ** (1 / 20)
    assert interval(1, 10) == pytest.approx((0.00253, 0.44502), abs=1e-5)
    assert interval(0, 0) == (0.0, 1.0)
    assert rate_in_words(0, 0) == "unknown: no such images"
    assert rate_in_words(1, 10).startswith("1 of 10: 10 % (0.25 to 45 %)")
    assert rate_in_words(7, 7) == "7 of 7: 100 % (59 to 100 %)"
    assert rate_in_words(997, 1000) == "997 of 1000: 99.7 % (99.1 to 99.9 %)"


def test_a_score_at_the_threshold_is_normal():
    assert outcome(images([1.0, 2.0], [2.0, 3.0]), 2.0) == outcome(images([1.0, 2.0], [2.0, 3.0]), 2.5)
    found = outcome(images([1.0, 2.0], [2.0, 3.0]), 2.0)
    assert (found.false_alarms, found.missed) == (0, 1)
    assert outcome(images([1 + 1e-9]), 1.0).false_alarms == 0, "models compare in float32"


def test_an_image_whose_score_is_no_number_is_called_anomalous():
    image = KnownImage.of("a/b/c.png", math.nan, 1.0, anomalous=False)
    assert image.name == "b/c.png"
    assert outcome([image], 1e30).false_alarms == 1
    assert all(math.isfinite(threshold) for threshold, _ in neighbours([image, *images([1.0, 2.0])], 1.5))


def test_a_score_keeps_the_digits_of_float32():
    score = np.nextafter(np.float32(1), np.float32(2))
    assert np.float32(KnownImage.of("a.png", float(score), 1.0, anomalous=False).score) == score


def test_a_threshold_is_written_with_as_many_digits_as_its_images_need():
    assert written(1.23456, images([1.0, 2.0])) == "1.235"
    close = images([0.123461, 0.123468])
    text = written(0.1234642, close)
    assert outcome(close, float(text)).false_alarms == 1
    assert len(text) < len("0.1234642")


def test_neighbouring_thresholds_judge_one_three_and_ten_images_differently():
    known = images([float(score) for score in range(20)], [float(score) for score in range(30, 35)])
    table = neighbours(known, 19.5)
    assert [threshold for threshold, _ in table] == sorted((threshold for threshold, _ in table), reverse=True)
    assert {threshold: (found.false_alarms, found.missed) for threshold, found in table} == {
        32.5: (0, 3),
        30.5: (0, 1),
        19.5: (0, 0),
        18.5: (1, 0),
        16.5: (3, 0),
        9.5: (10, 0),
    }
    assert neighbours(known, math.nan) == []


@pytest.mark.parametrize(("rate", "normal", "beyond"), [(0.01, 99, False), (0.01, 98, True), (0.5, 0, True)])
def test_a_rate_is_extrapolated_where_no_image_could_show_it(rate: float, normal: int, beyond: bool):
    assert extrapolates(rate, normal) is beyond


def test_of_many_images_the_extremes_are_kept():
    known = images([float(score) for score in range(1000)], [5.0])
    kept = thinned(known, most=10)
    scores = sorted(image.score for image in kept if not image.anomalous)
    assert (len(scores), scores[0], scores[-1]) == (10, 0.0, 999.0)
    assert [image.score for image in kept if image.anomalous] == [5.0]
    assert from_plain(to_plain(kept[:2]))[0][:3] == kept[0][:3]
