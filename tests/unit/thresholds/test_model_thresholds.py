# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Changing the thresholds of a model, as plain values."""

import json
import math
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from rich.console import Console

from anomalib_grad.thresholds.display import NO_EVIDENCE, NO_THRESHOLDS, remarks, thresholds_table
from anomalib_grad.thresholds.labelled_scores import KnownImage
from anomalib_grad.thresholds.model_thresholds import ModelThresholds
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor
from anomalib_grad.thresholds.rules import ABOVE
from anomalib_grad.thresholds.threshold_record import ThresholdRecord

NORMAL = [
    KnownImage(f"good/{score}.png", anomalous=False, score=score, peak=2 * score) for score in map(float, range(9))
]
BAD = [KnownImage(f"bad/{score}.png", anomalous=True, score=score, peak=2 * score) for score in (7.5, 20.0)]


def thresholds(rate: float | None = None, **settings: float | bool) -> ModelThresholds:
    """Two products, cup with scores from 0 to 20 and a fitted threshold of 8."""
    post_processor = PerCategoryPostProcessor(**settings)
    post_processor.set_categories(["cup", "pin"])
    for level, scale in (("image", 1.0), ("pixel", 2.0)):
        for part, value in (("threshold", 8.0), ("min", 0.0), ("max", 20.0)):
            getattr(post_processor, f"category_{level}_{part}").fill_(value * scale)
            getattr(post_processor, f"_{level}_{part}" if part == "threshold" else f"{level}_{part}").fill_(
                value * scale
            )
    post_processor.records = {"cup": ThresholdRecord.of("best F1", "validation", 8.0, NORMAL + BAD, rate)}
    return ModelThresholds.of(post_processor)


def test_a_sensitivity_is_a_step_on_the_normalised_scale_of_the_fitted_threshold():
    model = thresholds()
    for _ in range(2):  # again it is of the fitted threshold, not of the one that was set
        model.set_sensitivity("cup", 0.75)
        assert model.threshold("cup") == 4.0
    model.set_sensitivity("cup", 0.25)
    assert model.threshold("cup") == 14.0
    model.set_sensitivity("cup", 0.5)
    assert model.threshold("cup") == 8.0
    assert [change.after for change in model.record("cup").history] == [4.0, 4.0, 14.0, 8.0]


def test_of_many_changes_the_latest_are_shown_and_how_to_see_the_others():
    model = thresholds()
    for number in range(10):
        model.set_threshold("cup", 2 + number)
    assert not any("earlier" in remark for remark in remarks(model))
    for number in range(10, 15):
        model.set_threshold("cup", 2 + number)
    said, *shown = remarks(model)
    assert said.startswith("cup: the file also holds 5 earlier changes; ")
    assert said.endswith("read_thresholds(file).record('cup').history lists all.")
    assert [remark.split("threshold ")[1].split(" ")[0] for remark in shown] == [str(2 + n) for n in range(5, 15)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("threshold", [1e300, -1e300, 3.3e38, -3.3e38, math.inf, -math.inf, math.nan])
def test_a_threshold_by_which_scores_would_be_no_numbers_is_refused(threshold: float, normalized: bool):
    model = thresholds(enable_normalization=normalized)
    before = model.table.copy()
    if not normalized and abs(threshold) < 3.4e38:
        model.set_threshold("cup", threshold)
        assert model.threshold("cup") == pytest.approx(threshold)
        return
    said = "too far from the scores" if abs(threshold) < 3.4e38 else "must be a finite float32 number"
    with pytest.raises(ValueError, match=said):
        model.set_threshold("cup", threshold)
    np.testing.assert_array_equal(model.table, before)


@pytest.mark.parametrize("sensitivity", [0.0, 0.05, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("threshold", [1e38, -1e38, 1e37, -5.0])
def test_scores_are_numbers_by_any_threshold_that_is_taken(threshold: float, sensitivity: float):
    model = thresholds(image_sensitivity=1 - sensitivity)
    try:
        model.set_threshold("cup", threshold)
    except ValueError as refusal:
        assert "too far from the scores" in str(refusal)  # noqa: PT017  # taken or refused
        assert abs(threshold) > 1e36
        return
    post_processor = PerCategoryPostProcessor(image_sensitivity=1 - sensitivity)
    post_processor.set_categories(["cup", "pin"])
    model.apply_to(post_processor)
    scores = InferenceBatch(pred_score=torch.tensor([-1e38, 0.0, 20.0, 1e38]))
    assert torch.isfinite(post_processor(scores, torch.zeros(4, dtype=torch.long)).pred_score).all()


def test_images_whose_scores_are_no_numbers_fit_no_threshold():
    model = thresholds()
    with pytest.raises(ValueError, match="The threshold inf is too far from the scores"):
        model.fit("cup", [KnownImage("a.png", anomalous=False, score=math.inf)], "line", None)
    with pytest.raises(ValueError, match="The threshold inf is too far from the scores"):
        model.fit("cup", [KnownImage("a.png", anomalous=False, score=math.inf)], "line", 0.1)


def just_above(value: float) -> Any:
    """Return what equals a threshold that calls a score normal."""
    return pytest.approx(value, rel=1.1 * ABOVE)


def test_a_rate_of_false_alarms_sets_images_and_pixels():
    model = thresholds()
    model.set_false_alarms("cup", 0.2)
    assert model.threshold("cup") == just_above(7.0)  # one of nine is above
    assert model.table[0].tolist()[:2] == [just_above(7.0), just_above(14.0)]
    assert model.record("cup").rate == 0.2
    model.set_threshold("cup", 3.0)
    assert model.record("cup").rate is None  # nothing is promised any more
    model.set_sensitivity("cup", 0.6)
    assert model.table[0, 1] == just_above(14.0)  # neither of the two moves the mask on the heatmap


def test_a_fit_moves_the_range_with_the_threshold():
    model = thresholds()
    model.fit("cup", [image._replace(score=image.score + 100) for image in NORMAL], "line", None)
    assert model.table[0].tolist() == [just_above(each) for each in (108.0, 16.0, 100.0, 120.0, 0.0, 40.0)]
    assert model.record("cup").source == "line"
    model.fit("cup", NORMAL + BAD, "line", None)
    assert model.threshold("cup") == 7.25  # best F1: one false alarm, and both bad ones are found
    assert model.table[1].tolist() == thresholds().table[1].tolist()
    assert [change.what for change in model.record("cup").history] == ["highest normal score", "best F1"]


def shown(model: ModelThresholds, product: str) -> str:
    """Row of a product as people see it."""
    console = Console(width=300, record=True, file=StringIO())
    console.print(thresholds_table(model))
    (row,) = [line for line in console.export_text().splitlines() if line.strip().startswith(product)]
    return row


def test_brackets_in_names_and_paths_are_shown():
    model = thresholds()
    model.fit("cup", NORMAL, "line/[day]/[/b]", None)
    assert "(line/[day]/[/b])" in shown(model, "cup")
    model.products[0], model.records["cup [/b]"] = "cup [/b]", model.records["cup"]
    assert "9 normal" in shown(model, "cup [/b]")


def test_of_very_many_images_the_file_keeps_some_and_says_so():
    model = thresholds()
    model.fit("cup", [KnownImage("", anomalous=False, score=float(score)) for score in range(2001)], "line", None)
    assert "cup: the file keeps 2000 of 2001 images, evenly spaced by score." in remarks(model)


@pytest.mark.parametrize("change", ["fit", "correct"])
def test_show_says_that_the_pooled_threshold_is_not_of_images_that_came_later(change: str):
    model = thresholds()
    model.records["unknown"] = ThresholdRecord.of("best F1", "validation", 8.0, [])
    assert "9 normal, 2 anomalous (images of all products)" in shown(model, "unknown")
    if change == "fit":
        model.fit("cup", NORMAL[:5] + BAD, "line", None)
    else:
        model.correct("cup", [KnownImage("new.png", anomalous=True, score=1.5)], "corrected by 1 missed images")
    assert "anomalous (images of all products; cup changed after this fit)" in shown(model, "unknown")
    model.set_false_alarms("unknown", 0.2)
    assert "anomalous (images of all products) " in shown(model, "unknown")


def test_a_promise_is_kept_when_images_of_other_light_come_in():
    model = thresholds(rate=0.2)
    model.fit("cup", NORMAL, "line", None)
    assert (model.threshold("cup"), model.record("cup").rate) == (just_above(7.0), 0.2)
    model.correct("cup", [NORMAL[8]], "corrected")
    assert model.promise("cup") == 0.2
    for change in (
        lambda: model.fit("cup", NORMAL + BAD, "line", None),
        lambda: model.correct("cup", BAD, "corrected"),
    ):
        model.records["cup"] = ThresholdRecord.of("false alarms 0.2", "line", 7.0, NORMAL, 0.2)
        change()
        assert (model.threshold("cup"), model.record("cup").rate) == (7.25, None), "anomalous images take best F1"


def test_a_rate_needs_normal_images():
    model = thresholds()
    model.records["cup"] = ThresholdRecord.of("best F1", "validation", 8.0, BAD)
    with pytest.raises(ValueError, match="The file has no normal image of cup; fit the threshold on some"):
        model.set_false_alarms("cup", 0.1)


def in_other_units(images: list[KnownImage]) -> list[KnownImage]:
    """The same images as another network judges them: twice as high, and 1."""
    return [image._replace(score=2 * image.score + 1, peak=3 * image.peak) for image in images]


def test_a_threshold_follows_the_scores_of_validation_images():
    after = in_other_units(NORMAL + BAD)
    promised = thresholds(rate=0.2)
    promised.table[0, 0] = 7.0
    promised.records["cup"] = ThresholdRecord.of("false alarms 0.2", "validation", 7.0, NORMAL + BAD, 0.2)
    promised.follow("cup", NORMAL + BAD, after)
    assert (promised.threshold("cup"), promised.promise("cup")) == (just_above(15.0), 0.2)
    assert promised.images("cup") == tuple(after)
    best = thresholds()
    best.table[0, 0] = 7.25
    best.records["cup"] = ThresholdRecord.of("best F1", "validation", 7.25, NORMAL + BAD)
    best.follow("cup", NORMAL + BAD, after)
    assert best.threshold("cup") == 15.5
    assert best.table[0, 2] == 1.0, "the range begins at the lowest score"
    assert best.table[0, 1] == just_above(48.0)  # in proportion: 16 was the highest


def test_a_threshold_of_best_f1_keeps_its_place_among_few_images_of_which_another_were_the_best():
    """As it was fitted on more: between 7 and 7.5, while of these alone a threshold between 4 and 5 finds all."""
    few = [*NORMAL[::4], *BAD, KnownImage("bad/5.png", anomalous=True, score=5.0, peak=1.0)]
    model = thresholds()
    model.table[0, 0] = 7.25
    model.records["cup"] = ThresholdRecord.of("best F1", "validation", 7.25, NORMAL + BAD)
    model.follow("cup", few, in_other_units(few))
    assert model.threshold("cup") == 15.5
    assert model.record("cup").rule == "best F1, moved"
    model.follow("cup", in_other_units(few), few)
    assert (model.threshold("cup"), model.record("cup").rule) == (7.25, "best F1, moved")
    model.follow("cup", BAD, in_other_units(BAD))
    assert model.threshold("cup") == 7.25, "without normal images nothing is known of it"
    model.table[-1, 0] = 7.25
    model.records["unknown"] = ThresholdRecord.of("best F1", "validation", 7.25, NORMAL + BAD)
    model.follow("unknown", few, few, in_other_units(few))
    assert model.threshold("unknown") != 7.25, "with images of other products it is fitted on all"
    assert model.table[-1, 1] == 16.0, "and pixels, of which only the largest are known, are not"
    assert model.record("unknown").images == (), "the records of the products hold them"


def test_a_threshold_that_someone_set_keeps_its_place_among_the_normal_scores():
    model = thresholds()
    model.set_threshold("cup", 5.5)
    model.follow("cup", NORMAL, in_other_units(NORMAL))
    assert model.threshold("cup") == 12.0
    assert model.record("cup").rule == "threshold 5.5, moved"
    elsewhere = thresholds()
    elsewhere.fit("cup", [image._replace(score=image.score + 8) for image in NORMAL], "line", None)
    elsewhere.follow("cup", NORMAL, in_other_units(NORMAL))
    assert elsewhere.threshold("cup") == just_above(16 * 17 / 8)  # beyond them: in proportion to the highest
    assert elsewhere.images("cup") == (), "nobody knows what the network makes of those"
    assert elsewhere.record("cup").source == "line, scored by an earlier network"


def test_a_correction_is_counted_once():
    model = thresholds()
    normal, anomalous = model.record("cup").seen
    false_alarm = KnownImage("line/1.png", anomalous=False, score=7.3)
    for _ in range(2):
        model.correct("cup", [false_alarm], "corrected")
    assert [image.name for image in model.images("cup")].count("line/1.png") == 1
    assert model.record("cup").seen == (normal + 1, anomalous)
    assert model.table[0, 1] == 16.0, "best F1 of images says nothing of pixels"
    assert not [line for line in remarks(model) if "the file keeps" in line]
    assert model.threshold("cup") == pytest.approx(7.4)  # between it and the next bad one


def test_what_is_set_comes_back_from_files_and_changes_verdicts():
    model = thresholds()
    model.set_threshold("cup", 3.0)
    plain = json.loads(json.dumps(model.to_plain()))
    again = ModelThresholds.from_plain(plain, model.products, model.table)
    assert again.records == model.records
    with pytest.raises(ValueError, match=r"1 products and statistics of shape \(3, 6\)"):
        ModelThresholds.from_plain(plain, ["cup"], model.table)
    post_processor = PerCategoryPostProcessor()
    post_processor.set_categories(["cup", "pin"])
    again.apply_to(post_processor)
    assert post_processor.records == model.records
    scores = InferenceBatch(pred_score=torch.tensor([3.1, 3.1, 3.1]), anomaly_map=torch.zeros(3, 1, 2, 2))
    assert post_processor(scores, torch.tensor([0, 1, 2])).pred_label.tolist() == [True, False, False]


@pytest.mark.parametrize("sensitivity", [0.02, 0.1, 0.4, 0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("threshold", [-3.0, 0.0, 1e-3, 5.0, 8.0, 19.0, 20.0, 31.0])
def test_thresholds_are_set_whatever_the_sensitivity_of_the_model(sensitivity: float, threshold: float):
    model = thresholds(image_sensitivity=sensitivity, pixel_sensitivity=min(1.1 - sensitivity, 1))
    model.fit(
        "cup", [NORMAL[0]._replace(score=threshold, peak=2 * threshold + 9), NORMAL[1]._replace(score=-9)], "", None
    )
    for _ in range(2):  # as fitted, then as set
        assert model.threshold("cup") == pytest.approx(threshold, abs=2e-3 + ABOVE * abs(threshold))
        post_processor = PerCategoryPostProcessor(
            image_sensitivity=sensitivity, pixel_sensitivity=min(1.1 - sensitivity, 1)
        )
        post_processor.set_categories(["cup", "pin"])
        model.apply_to(post_processor)
        scores = threshold + torch.tensor([-1e-2, 0.0, 1e-2])
        judged = post_processor(
            InferenceBatch(scores, None, (2 * scores + 9).view(3, 1, 1, 1), None), torch.zeros(3).long()
        )
        assert judged.pred_label.tolist() == [False, False, True]
        assert judged.pred_mask.flatten().tolist() == [False, False, True]
        model.set_threshold("cup", threshold)


def test_what_is_fitted_is_not_promised_where_the_model_moves_it():
    model = thresholds(rate=0.2, image_sensitivity=0.7)
    assert (model.threshold("cup"), model.promise("cup")) == (pytest.approx(4.8), None)
    assert "cup: the fitted threshold is 8; the model's image_sensitivity=0.7 moves it." in remarks(model)
    model.set_false_alarms("cup", 0.3)
    assert (model.threshold("cup"), model.promise("cup")) == (just_above(6.0), 0.3)
    assert not [line for line in remarks(model) if "moves it" in line]


def test_unknown_products_have_the_images_of_all():
    model = thresholds()
    model.records["unknown"] = ThresholdRecord.of("best F1", "validation", 8.0, [])
    assert len(model.images("unknown")) == 11
    model.fit("unknown", NORMAL[:4], "line", None)
    assert model.images("unknown") == tuple(NORMAL[:4])
    model.set_threshold("unknown", 1.0)
    assert (model.threshold("unknown"), model.threshold("pin")) == (1.0, 8.0)


@pytest.mark.parametrize(
    ("settings", "change", "said"),
    [
        ({}, lambda model: model.set_threshold("cup", math.inf), "finite"),
        ({}, lambda model: model.set_false_alarms("pin", 0.1), "does not record which images"),
        ({}, lambda model: model.set_sensitivity("cup", 1.1), "A sensitivity must lie between 0 and 1, got 1.1"),
        ({"enable_normalization": False}, lambda model: model.set_sensitivity("cup", 0.6), "does not normalise"),
        ({"image_sensitivity": 0.0}, lambda model: model.set_threshold("cup", 1.0), "calls nothing anomalous"),
    ],
)
def test_what_cannot_be_set_is_said_and_nothing_changes(settings: dict, change, said: str):
    model = thresholds(**settings)
    before = np.array(model.table), dict(model.records)
    with pytest.raises(ValueError, match=said):
        change(model)
    np.testing.assert_array_equal(model.table, before[0])
    assert model.records == before[1]


def test_the_threshold_that_is_shown_is_the_one_that_sensitivity_moves():
    assert thresholds(image_sensitivity=0.75).threshold("cup") == 4.0
    assert thresholds(image_sensitivity=0.75, enable_normalization=False).threshold("cup") == 8.0


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.set_threshold("cup", 1.0),
        lambda model: model.set_sensitivity("cup", 0.6),
        lambda model: model.set_false_alarms("cup", 0.1),
    ],
)
def test_a_model_that_was_never_validated_is_not_told_to_do_what_it_refuses(change):
    model = thresholds()
    model.table[:], model.records = math.nan, {}
    assert remarks(model) == [NO_THRESHOLDS]
    with pytest.raises(ValueError, match=r"no score range yet.* or fit the threshold on images") as error:
        change(model)
    assert "--threshold" not in str(error.value)
    model.fit("cup", NORMAL[1:], "line", None)
    assert model.table[0].tolist() == [just_above(each) for each in (8.0, 16.0, 1.0, 15.0, 0.0, 32.0)]


def test_a_threshold_whose_images_nobody_recorded_has_no_sensitivity():
    model = thresholds()
    model.records = {}
    assert remarks(model) == [NO_EVIDENCE]
    model.set_threshold("pin", 3.0)
    with pytest.raises(ValueError, match="does not record which images the threshold of pin comes from"):
        model.set_sensitivity("pin", 0.6)


def test_a_range_reaches_to_the_highest_score_that_is_a_number():
    model = thresholds()
    far = [KnownImage("bad.png", anomalous=True, score=score) for score in (100.0, math.inf)]
    model.fit("cup", NORMAL + far, "line", None)
    assert model.table[0, 2:4].tolist() == [0.0, 100.0]
