# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of best F1 from counts: those of all samples, whatever their range and however they come in."""

import math

import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_curve

from anomalib_grad.thresholds.score_histogram import ScoreHistogram, best_f1_score, bin_of, just_below

RANGES = {
    "distances": (2.0, 5.0),
    "shares": (0.02, 0.05),
    "large": (2e4, 5e4),
    "both signs": (-0.5, 0.7),
    "below zero": (-7.0, -2.0),
}


def samples(normal: float, anomalous: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two overlapping clouds of 3000 and 200 scores."""
    draw = torch.Generator().manual_seed(0)
    width = abs(anomalous - normal) / 3
    scores = torch.randn(3200, generator=draw) * width + normal
    scores[3000:] += anomalous - normal
    return scores, torch.arange(3200) >= 3000


@pytest.mark.parametrize("ends", RANGES.values(), ids=RANGES)
def test_the_threshold_of_a_stream_has_the_best_f1_of_all_scores(ends: tuple[float, float]) -> None:
    scores, anomalous = samples(*ends)
    stream = ScoreHistogram()
    for part in torch.randperm(len(scores)).split(100):
        stream.update(scores[part].reshape(2, -1), anomalous[part].reshape(2, -1))
    precision, recall, _ = precision_recall_curve(anomalous, scores)
    best = (2 * precision * recall / (precision + recall)).max()
    assert best - 0.003 < f1_score(anomalous, scores > stream.best_f1_threshold()) <= best + 1e-9


def test_histograms_of_processes_add_up_to_that_of_one() -> None:
    scores, anomalous = samples(2.0, 5.0)
    whole, halves = ScoreHistogram(), [ScoreHistogram() for _ in range(3)]
    whole.update(scores, anomalous)
    halves[0].update(scores[:3100], anomalous[:3100])
    halves[1].update(scores[3100:], anomalous[3100:])
    for half in halves[1:]:
        halves[0].merge(half)
    assert halves[0].first == whole.first
    assert torch.equal(halves[0].counts, whole.counts)


def test_bins_keep_the_order_and_a_thousandth_of_the_score() -> None:
    positive = torch.logspace(-6, 4, 5000)
    scores = torch.cat([-positive.flip(0), torch.zeros(1), positive, torch.tensor([math.inf, math.nan])])
    bins = bin_of(scores)
    assert (bins.diff() >= 0).all()
    finite = scores[:-2]
    below = torch.tensor([just_below(row) for row in bin_of(finite).tolist()])
    assert (below < finite).all()
    assert (finite - below <= finite.abs() / 1000 + 2**-23).all()


def test_scores_that_separate_are_cut_at_the_lowest_anomalous_one() -> None:
    scores = torch.tensor([0.1, 0.2, 0.5, 0.5, 0.9])
    anomalous = torch.tensor([False, False, True, True, True])
    assert best_f1_score(scores, anomalous) == pytest.approx(0.5)
    stream = ScoreHistogram()
    stream.update(scores, anomalous)
    assert torch.equal(scores > stream.best_f1_threshold(), anomalous)
    assert stream.best_f1_threshold() == pytest.approx(0.5, rel=1e-3)
