# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

"""Statistics per category are fitted, applied and explained; without categories they are anomalib's."""

import logging
import pickle
from types import SimpleNamespace

import pytest
import torch
from anomalib.metrics import F1AdaptiveThreshold, MinMax
from anomalib.post_processing import PostProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor
from anomalib_grad.thresholds.rules import ABOVE
from score_batches import (
    SCORES,
    TRAINER,
    assert_same_order,
    assert_same_verdicts,
    fit,
    judge,
    make_batch,
    mixed_batches,
)

POOLED = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")


def f1(predicted: list[bool], truth: list[int]) -> float:
    hits = sum(p and t for p, t in zip(predicted, truth, strict=True))
    return 2 * hits / (sum(predicted) + sum(truth))


# ---------------------------------------------------------------------- fitting


def test_statistics_equal_anomalib_metrics_on_each_category_and_pooled() -> None:
    fitted = fit(mixed_batches())
    assert fitted.categories == ["bolt", "cap"]
    for index, name in enumerate(fitted.categories):
        own = make_batch(None, *SCORES[name])
        for level, fields in (("image", ["pred_score", "gt_label"]), ("pixel", ["anomaly_map", "gt_mask"])):
            threshold, extremes = F1AdaptiveThreshold(fields=fields), MinMax(fields=fields[:1])
            threshold.update(own)
            extremes.update(own)
            low, high = extremes.compute()
            found, wanted = getattr(fitted, f"category_{level}_threshold")[index], threshold.compute()
            scores = getattr(own, fields[0])  # labels ask for more than the threshold, anomalib's is the lowest
            assert torch.equal(scores > found, scores >= wanted)
            assert getattr(fitted, f"category_{level}_min")[index] == low
            assert getattr(fitted, f"category_{level}_max")[index] == high
    pooled = fit(mixed_batches(), PostProcessor())
    for name in POOLED:
        if "threshold" not in name:
            assert torch.equal(getattr(fitted, name), getattr(pooled, name))
    scores = torch.tensor([score for own, _ in SCORES.values() for score in own])
    assert torch.equal(scores > fitted._image_threshold, scores >= pooled._image_threshold)


def test_each_product_is_judged_on_its_own_scale() -> None:
    # anomalib calls a score anomalous when it exceeds the lowest anomalous one, so its pooled threshold misses that one
    scores, labels = [1.1, 3.4, 11.0, 34.0], [0, 1, 0, 1]
    own = judge(fit(mixed_batches()), make_batch(["bolt", "bolt", "cap", "cap"], scores, labels))
    pooled = judge(fit(mixed_batches(), PostProcessor()), make_batch(None, scores, labels))
    assert f1(own, labels) == 1.0
    assert f1(pooled, labels) < 1.0


def test_memory_does_not_grow_with_the_pixels() -> None:
    def held(batches: int) -> int:
        post_processor = PerCategoryPostProcessor()
        for _ in range(batches):
            for batch in mixed_batches():
                post_processor.on_validation_batch_end(TRAINER, None, batch)
        return len(pickle.dumps(post_processor))

    few, many = held(2), held(12)
    assert many - few < 10 * 10 * 100  # ten images of each product more, some numbers for each and no maps


@pytest.mark.parametrize("matching", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_without_categories_statistics_are_anomalibs_and_the_lowest_anomaly_is_found(
    masks: bool, matching: bool
) -> None:
    batches = [make_batch(None, *SCORES[name], masks=masks) for name in SCORES]
    mine, base = (
        fit(batches, kind(enable_threshold_matching=matching)) for kind in (PerCategoryPostProcessor, PostProcessor)
    )
    for name in POOLED[2:]:
        torch.testing.assert_close(getattr(mine, name), getattr(base, name), rtol=0, atol=0, equal_nan=True)
    scores = torch.tensor([score for own, _ in SCORES.values() for score in own])
    assert torch.equal(scores > mine._image_threshold, scores >= base._image_threshold)
    torch.testing.assert_close(mine._pixel_threshold, base._pixel_threshold, rtol=1e-3, atol=0, equal_nan=True)
    ours, theirs = make_batch(None, *SCORES["cap"]), make_batch(None, *SCORES["cap"])
    assert judge(mine, ours) == judge(base, theirs)
    assert_same_order(ours.pred_score, theirs.pred_score)


def test_pooled_row_equals_anomalib_for_unknown_products() -> None:
    mine, base = fit(mixed_batches()), fit(mixed_batches(), PostProcessor())
    ours, theirs = make_batch(["rivet"] * 5, *SCORES["bolt"]), make_batch(None, *SCORES["bolt"])
    judged = judge(mine, ours)
    judge(base, theirs)
    # anomalib misses the lowest anomalous score, which is its threshold
    assert judged == [score >= base._image_threshold.item() for score in SCORES["bolt"][0]]
    assert_same_order(ours.pred_score, theirs.pred_score)
    assert_same_verdicts(ours.anomaly_map, theirs.anomaly_map)


def test_sanity_check_leaves_nothing() -> None:
    post_processor = PerCategoryPostProcessor()
    sanity = SimpleNamespace(sanity_checking=True, datamodule=None)
    post_processor.on_validation_batch_end(sanity, None, mixed_batches()[0])
    post_processor.on_validation_epoch_end(sanity, None)
    assert post_processor.categories == []
    assert post_processor.image_threshold.isnan()


def test_an_interrupted_validation_leaves_nothing() -> None:
    interrupted = PerCategoryPostProcessor()
    interrupted.on_validation_batch_end(TRAINER, None, make_batch(["bolt"], [1.2], [1]))
    interrupted.on_validation_epoch_start(TRAINER, None)
    assert fit(mixed_batches(), interrupted).records.keys() == {"bolt", "cap", "unknown"}
    assert interrupted.records["bolt"].seen == (3, 2)
    assert interrupted.records["unknown"].images == (), "the records of the products hold them"


def test_images_that_a_sampler_repeats_for_equal_shares_count_once() -> None:
    """Of five images, the second of two processes has the second and the fourth, and the first once more."""
    sampler = DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
    loader = DataLoader(range(5), batch_sampler=BatchSampler(sampler, 2, drop_last=False))  # as Lightning makes them
    trainer = SimpleNamespace(**vars(TRAINER), val_dataloaders=loader)
    post_processor = PerCategoryPostProcessor()
    scores, labels = SCORES["bolt"]
    for number, batch in enumerate(loader):
        shown = make_batch(["bolt"] * len(batch), [scores[i] for i in batch], [labels[i] for i in batch])
        post_processor.on_validation_batch_end(trainer, None, shown, None, number)
    post_processor.on_validation_epoch_end(trainer, None)
    assert sorted(image.score for image in post_processor.records["bolt"].images) == pytest.approx([1.2, 3.0])


def test_later_validation_replaces_the_rows_it_sees_and_keeps_the_others() -> None:
    fitted = fit(mixed_batches())
    scores, labels = SCORES["bolt"]
    fit([make_batch(["bolt"] * 5, [2 * score for score in scores], labels)], fitted)
    assert fitted.category_threshold("bolt") == pytest.approx(4.4)  # between 2.8 and 6
    assert fitted.category_threshold("cap") == 22.0  # between 14 and 30


def test_categories_that_stay_keep_what_is_known_of_them() -> None:
    fitted = fit(mixed_batches())
    fitted.rearrange(["cap"], ["ant", "cap", "dish"])
    assert fitted.records.keys() == {"cap", "unknown"}
    pooled = float(fitted.image_threshold)
    assert [fitted.category_threshold(name) for name in fitted.categories] == [pooled, 22.0, pooled]
    fitted.set_categories(["cap"])
    assert fitted.records == {}
    assert fitted.category_threshold("cap") == pooled


def test_labels_and_masks_that_a_batch_has_stay() -> None:
    batch = make_batch(["bolt"], [3.5], [1])
    batch.pred_label, batch.pred_mask = torch.tensor([False]), torch.zeros(1, 4, 4, dtype=torch.bool)
    assert judge(fit(mixed_batches()), batch) == [False]
    assert not batch.pred_mask.any()


def test_new_category_replaces_all_where_none_was_learned() -> None:
    fitted = fit(mixed_batches())
    fit([make_batch(["dish"] * 2, [5.0, 9.0], [0, 1])], fitted)
    assert fitted.categories == ["dish"]


def test_new_category_is_refused_where_others_are_recognised_and_nothing_is_lost() -> None:
    fitted = fit(mixed_batches())
    fitted.recogniser.fit(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), torch.tensor([0, 0, 1, 1]), 2)
    before = {name: value.clone() for name, value in fitted.state_dict().items()}
    unseen = make_batch(["dish", "cap"], [5.0, 9.0], [0, 1])
    with pytest.raises(ValueError, match=r"not trained on dish, which the validation data hold; .* known ones: bolt"):
        fit([unseen], fitted)
    assert fitted.categories == ["bolt", "cap"]
    assert all(torch.equal(value, before[name]) for name, value in fitted.state_dict().items() if "category" in name)
    assert fitted.recogniser(torch.tensor([[0.05], [5.05]])).tolist() == [0, 1]
    fit(mixed_batches(), fitted)  # what was refused is not counted later
    assert all(torch.equal(value, before[name]) for name, value in fitted.state_dict().items() if "category" in name)


def test_a_named_category_that_is_not_trained_on_is_refused_before_training() -> None:
    post_processor = PerCategoryPostProcessor()
    post_processor.category = "cog"
    trainer = SimpleNamespace(datamodule=SimpleNamespace(categories=["bolt", "cap"]))
    with pytest.raises(ValueError, match="There is no category 'cog'; choose one of: bolt, cap"):
        post_processor.on_fit_start(trainer, None)


def test_a_named_category_is_refused_before_training_on_data_that_name_none() -> None:
    post_processor = PerCategoryPostProcessor()
    post_processor.category = "cog"
    with pytest.raises(ValueError, match="There is no category 'cog'; the model knows none yet"):
        post_processor.on_fit_start(TRAINER, None)


@pytest.mark.parametrize("trained", [True, False])
def test_datamodule_names_the_categories(trained: bool) -> None:
    post_processor, names = PerCategoryPostProcessor(), ["rivet", "cap", "bolt"]
    trainer = SimpleNamespace(sanity_checking=False, datamodule=SimpleNamespace(categories=names))
    if trained:
        post_processor.on_fit_start(trainer, None)
        assert post_processor.categories == names
        assert post_processor.recogniser(torch.rand(1, 3)).tolist() == [3]
    for batch in mixed_batches():
        post_processor.on_validation_batch_end(trainer, None, batch)
    post_processor.on_validation_epoch_end(trainer, None)
    assert post_processor.categories == names
    assert post_processor.category_threshold("cap") == 22.0  # between 14 and 30
    assert post_processor.category_threshold("rivet") == float(post_processor.image_threshold)


@pytest.mark.parametrize("flags", [{"enable_thresholding": False}, {"enable_normalization": False}])
def test_switched_off_parts_are_not_fitted(flags: dict[str, bool]) -> None:
    fitted = fit(mixed_batches(), PerCategoryPostProcessor(**flags))
    assert fitted.category_image_threshold.isnan().all() == ("enable_thresholding" in flags)
    assert fitted.category_image_min.isnan().all() == ("enable_normalization" in flags)
    batch = make_batch(["cap"] * 5, *SCORES["cap"])
    fitted.on_test_batch_end(TRAINER, None, batch)
    if "enable_thresholding" in flags:
        assert batch.pred_label is None
    else:
        assert batch.pred_label.tolist() == [False, False, False, True, True]
        assert batch.pred_score.tolist() == SCORES["cap"][0]


# ---------------------------------------------------------------------- incomplete validation data


def test_category_without_anomalies_takes_its_highest_normal_score(caplog: pytest.LogCaptureFixture) -> None:
    normal = make_batch(["rivet"] * 3, [100.0, 110.0, 120.0], [0, 0, 0])
    with caplog.at_level(logging.WARNING):
        fitted = fit([*mixed_batches(), normal])
        fit([*mixed_batches(), normal], fitted)
    assert fitted.category_threshold("rivet") == pytest.approx(120.0, rel=1.1 * ABOVE)
    assert float(fitted.category_pixel_threshold[2]) == pytest.approx(120.0, rel=1.1 * ABOVE)
    assert [record.message for record in caplog.records if "rivet" in record.message] == [
        "Category 'rivet' has no anomalous validation images, so the highest normal score is the threshold. "
        "Add some for a better threshold, or set the model's false_alarm_rate, which needs only normal images."
    ]


@pytest.mark.parametrize("empty_masks", [True, False])
def test_category_without_masks_takes_the_pooled_pixel_threshold(
    caplog: pytest.LogCaptureFixture, empty_masks: bool
) -> None:
    unmasked = make_batch(["rivet"] * 5, [score + 100 for score in SCORES["cap"][0]], SCORES["cap"][1], masks=False)
    if empty_masks:
        unmasked.gt_mask = torch.zeros(5, 4, 4, dtype=torch.bool)
    with caplog.at_level(logging.WARNING):
        fitted = fit([*mixed_batches(), unmasked])
    assert fitted.category_threshold("rivet") == 122.0  # between 114 and 130
    assert fitted.category_pixel_threshold[2].isnan()
    assert fitted.pixel_thresholds[2] == fitted.pixel_threshold
    assert not fitted.category_pixel_threshold[:2].isnan().any()
    assert sum("'rivet' has no validation masks" in record.message for record in caplog.records) == 1


def test_no_masks_at_all_means_image_thresholds_for_pixels() -> None:
    fitted = fit([make_batch([name] * 5, *SCORES[name], masks=False) for name in SCORES])
    assert torch.equal(fitted.pixel_thresholds, fitted.image_thresholds)
    separate = fit(
        [make_batch([name] * 5, *SCORES[name], masks=False) for name in SCORES],
        PerCategoryPostProcessor(enable_threshold_matching=False),
    )
    assert separate.pixel_thresholds.isnan().all()


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.floats(0, 40, width=32), min_size=2, max_size=8),
    category=st.sampled_from(["bolt", "cap", "rivet"]),
    sensitivity=st.floats(0, 1),
)
def test_normalisation_keeps_the_order_within_a_category(
    scores: list[float], category: str, sensitivity: float
) -> None:
    fitted = fit(mixed_batches(), PerCategoryPostProcessor(image_sensitivity=sensitivity))
    batch = make_batch([category] * len(scores), sorted(scores), [0] * len(scores))
    labels = judge(fitted, batch)
    assert (batch.pred_score.diff() >= 0).all()
    assert ((batch.pred_score >= 0) & (batch.pred_score <= 1)).all()
    assert labels == sorted(labels)
    middle = make_batch([category], [fitted.category_threshold(category)], [0])
    judge(fitted, middle)
    assert middle.pred_score.item() == pytest.approx(0.5)
