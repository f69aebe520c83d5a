# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The product of an image comes from its batch, the model's attribute or its recogniser, also in exports."""

import logging

import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor

from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor
from score_batches import assert_same_verdicts, fit, judge, make_batch, mixed_batches


def test_names_come_from_the_attribute_then_the_batch_then_the_model() -> None:
    fitted = fit(mixed_batches())
    batch = make_batch(["bolt", "cap"], [1.0, 1.0], [0, 0])
    batch.explanation = ["cap", "cap"]
    assert fitted.category_index(batch).tolist() == [0, 1]
    recognised = make_batch(None, [1.0] * 3, [0] * 3)
    assert fitted.category_index(recognised) is None
    recognised.explanation = ["cap", "unknown", "a scratch on the left"]
    assert fitted.category_index(recognised).tolist() == [1, 2, 2]
    fitted.category = "bolt"
    assert fitted.category_index(batch).tolist() == [0, 0]
    assert fitted.category_names(torch.tensor([1, 2, 0])) == ["cap", "unknown", "bolt"]


def test_unknown_name_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    fitted = fit(mixed_batches())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            judge(fitted, make_batch(["rivet", "cap"], [1.0, 1.0], [0, 0]))
    assert sum("rivet" in record.message for record in caplog.records) == 1


def test_unknown_attribute_is_an_error_that_lists_the_known_names() -> None:
    fitted = fit(mixed_batches())
    fitted.category = "rivet"
    with pytest.raises(ValueError, match="bolt, cap"):
        judge(fitted, make_batch(None, [1.0], [0]))
    with pytest.raises(ValueError, match="bolt, cap"):
        fitted(InferenceBatch(pred_score=torch.ones(1), anomaly_map=torch.ones(1, 1, 4, 4)))


def test_repeated_names_are_refused() -> None:
    with pytest.raises(ValueError, match="cap"):
        PerCategoryPostProcessor().set_categories(["cap", "bolt", "cap"])


# ---------------------------------------------------------------------- forward


def test_forward_agrees_with_the_test_path() -> None:
    fitted = fit(mixed_batches())
    batch = make_batch(["cap", "bolt", "rivet"], [20.0, 2.0, 7.0], [0, 0, 0])
    predictions = InferenceBatch(pred_score=batch.pred_score.clone(), anomaly_map=batch.anomaly_map[:, None].clone())
    index = fitted.category_index(batch)
    judge(fitted, batch)
    out = fitted(predictions, index)
    assert torch.equal(out.pred_score, batch.pred_score)
    assert torch.equal(out.pred_label, batch.pred_label)
    assert torch.equal(out.anomaly_map[:, 0], batch.anomaly_map)
    assert torch.equal(out.pred_mask[:, 0], batch.pred_mask)


@pytest.mark.parametrize("with_score", [True, False])
def test_forward_without_index_gives_anomalibs_verdicts(with_score: bool) -> None:
    mine, base = fit(mixed_batches()), fit(mixed_batches(), PostProcessor())
    predictions = InferenceBatch(
        pred_score=torch.tensor([1.0, 20.0]) if with_score else None, anomaly_map=20 * torch.rand(2, 1, 4, 4)
    )
    everything_pooled = torch.full((2,), 2)
    for out in (mine(predictions), mine(predictions, everything_pooled)):
        theirs = base(predictions)
        assert torch.equal(out.pred_label, theirs.pred_label)
        assert torch.equal(out.pred_mask, theirs.pred_mask)
        assert_same_verdicts(out.pred_score, theirs.pred_score)
        assert_same_verdicts(out.anomaly_map, theirs.anomaly_map)


def test_forward_takes_the_attribute() -> None:
    fitted = fit(mixed_batches())
    predictions = InferenceBatch(pred_score=torch.tensor([20.0]), anomaly_map=torch.ones(1, 1, 4, 4))
    by_index = fitted(predictions, torch.tensor([1]))
    fitted.category = "cap"
    for index in (None, torch.tensor([0])):
        assert torch.equal(fitted(predictions, index).pred_score, by_index.pred_score)
