# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A threshold of best F1 has it where models judge by it: in 32 bits, with scores that exceed it called anomalous."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anomalib_grad.data import CategoryImageBatch
from anomalib_grad.thresholds.labelled_scores import KnownImage
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor
from anomalib_grad.thresholds.rules import fit

Known = list[tuple[float, bool]]
"""Scores, and whether each is of an anomalous image."""
TRAINER = SimpleNamespace(sanity_checking=False, datamodule=None)
CLOSE = [1.0, *(float(np.float32(1 + step * 2.0**-23)) for step in (1, 2, 3))]  # no number of 32 bits between these
scores = st.one_of(st.integers(0, 4).map(float), st.floats(0, 2.0**100, width=32), st.sampled_from(CLOSE))
both_kinds = st.lists(st.tuples(scores, st.booleans()), max_size=8).flatmap(
    lambda rest: st.tuples(scores, scores).map(lambda two: [(two[0], False), (two[1], True), *rest])
)


def f1(known: Known, called: list[bool]) -> float:
    hits = sum(truth and verdict for (_, truth), verdict in zip(known, called, strict=True))
    return 2 * hits / (sum(called) + sum(truth for _, truth in known))


def f1_above(known: Known, threshold: float) -> float:
    return f1(known, [bool(np.float32(score) > np.float32(threshold)) for score, _ in known])


def best_f1(known: Known) -> float:
    return max(f1(known, [score >= cut for score, _ in known]) for cut, _ in known)


def images(known: Known) -> list[KnownImage]:
    return [KnownImage.of("", score, score, anomalous=truth) for score, truth in known]


def validated(products: dict[str, Known]) -> PerCategoryPostProcessor:
    post_processor = PerCategoryPostProcessor()
    for name, known in products.items():
        values, truths = torch.tensor([score for score, _ in known]), torch.tensor([truth for _, truth in known])
        batch = CategoryImageBatch(
            image=torch.zeros(len(known), 3, 2, 2), gt_label=truths, pred_score=values, category=[name] * len(known)
        )
        post_processor.on_validation_batch_end(TRAINER, None, batch)
    post_processor.on_validation_epoch_end(TRAINER, None)
    return post_processor


@example([(CLOSE[1], False), (CLOSE[2], True)])  # the number halfway rounds up
@given(both_kinds)
def test_thresholds_that_are_fitted_in_a_file_have_the_best_f1(known: Known) -> None:
    assert f1_above(known, fit(images(known), None).image) == best_f1(known)


@settings(deadline=None, max_examples=50)
@given(both_kinds, both_kinds)
def test_thresholds_of_a_validation_have_the_best_f1_product_by_product_and_pooled(nut: Known, pin: Known) -> None:
    thresholds = validated({"nut": nut, "pin": pin}).image_thresholds.tolist()
    for known, threshold in zip((nut, pin, nut + pin), thresholds, strict=True):
        assert f1_above(known, threshold) == best_f1(known)


@pytest.mark.parametrize(
    "known", [[(5.0, False), (4.0, True)], [(0.0, True), (0.0, False)], [(30.0, True), (40.0, True)]]
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_where_all_are_best_called_anomalous_the_lowest_is_with_room_for_rounding(known: Known, kind: torch.dtype):
    """One normal image above one anomalous one, scores of nothing, and no normal image at all."""
    fitted = validated({"nut": known})
    values = torch.tensor([score for score, _ in known]).to(kind).float() * 0.99
    judged = fitted(InferenceBatch(pred_score=values), torch.zeros(len(known), dtype=torch.long))
    assert judged.pred_label.all()
    assert torch.isfinite(judged.pred_score).all()
    order = values.argsort()
    assert (judged.pred_score[order].diff() >= 0).all()
    threshold = InferenceBatch(pred_score=fitted.image_thresholds[:1])
    assert fitted(threshold, torch.zeros(1, dtype=torch.long)).pred_score.item() == 0.5


def test_a_score_that_is_no_number_leaves_the_threshold_one() -> None:
    known = [(2.0, False), (float("inf"), True)]
    threshold = fit(images(known), None).image
    assert 2 < threshold < 10
    assert np.isfinite(fit(images([(float("inf"), False), (float("inf"), True)]), None).image)
