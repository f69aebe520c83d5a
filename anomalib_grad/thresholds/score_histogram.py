# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of best F1: exact ones from a list of scores, and those of pixels from a histogram that streams."""

import torch
from torch import Tensor
from torch.nn import functional

DIGITS = 10
"""Binary digits of a score that its bin keeps after the first: bins are a thousandth of the score wide."""
_SHIFT = 23 - DIGITS
_FLOOR = (127 - 24) << DIGITS
"""Scores whose magnitude is below 2^-24 share a bin."""


class ScoreHistogram:
    """Counts normal and anomalous scores in bins of equal relative width, whatever their range.

    A bin is what a float32 has in common with its neighbours when its last digits are cut off, so that bins need no
    range that would have to be known first. Memory depends on the range of the scores alone: 16 kB for each factor of
    two, at most 700 kB for scores of one sign up to 2^16.
    """

    def __init__(self) -> None:
        self.first = 0  # bin of the first row
        self.counts = torch.zeros(0, 2, dtype=torch.int64)  # (bins, 2): normal, anomalous

    def update(self, scores: Tensor, anomalous: Tensor) -> None:
        """Count scores of any shape, with their truth of the same shape, bool."""
        bins = bin_of(scores.flatten())
        if not len(bins):
            return
        low, high = (int(end) for end in torch.aminmax(bins))
        classes = 2 * (bins - low) + anomalous.flatten()
        counts = torch.bincount(classes, minlength=2 * (high - low + 1)).cpu()
        self._add(low, counts.unflatten(0, (-1, 2)))

    def merge(self, other: "ScoreHistogram") -> None:
        """Take in what another histogram counted."""
        if len(other.counts):
            self._add(other.first, other.counts)

    def _add(self, first: int, counts: Tensor) -> None:
        if not len(self.counts):
            self.first = first
        below = max(self.first - first, 0)
        above = max(first + len(counts) - self.first - len(self.counts), 0)
        if below or above:
            self.first, self.counts = self.first - below, functional.pad(self.counts, (0, 0, below, above))
        self.counts[first - self.first :][: len(counts)] += counts

    def best_f1_threshold(self) -> float:
        """The value just below the bin from which on all scores are best called anomalous.

        F1 there is that of all pixels, not an estimate; only the choice is one among bins.
        """
        normal, anomalous = self.counts.unbind(dim=1)
        return just_below(self.first + best_f1_row(normal, anomalous))


def best_f1_row(normal: Tensor, anomalous: Tensor) -> int:
    """Row from which on calling all anomalous gives the best F1, the first of those; never an empty one.

    Args:
        normal: Numbers of normal samples by rising score, ``(rows,)``.
        anomalous: Numbers of anomalous ones.
    """
    found = anomalous.flip(0).cumsum(0).flip(0).double()  # (rows,): anomalous samples from this row on
    called = (normal + anomalous).flip(0).cumsum(0).flip(0)  # (rows,): samples that would be called anomalous
    f1 = 2 * found / (called + anomalous.sum())
    return int(torch.where(normal + anomalous > 0, f1, -1.0).argmax())


def best_f1_score(scores: Tensor, anomalous: Tensor) -> float:
    """Lowest of the scores ``(n,)`` that are best called anomalous."""
    values, rows = scores.unique(return_inverse=True)
    counts = torch.bincount(2 * rows + anomalous, minlength=2 * len(values)).unflatten(0, (-1, 2))
    return float(values[best_f1_row(*counts.unbind(dim=1))])


def bin_of(scores: Tensor) -> Tensor:
    """Bin of each score: int32, of the same order; NaN comes last."""
    magnitude = ((scores.float().abs().view(torch.int32) >> _SHIFT) - _FLOOR).clamp_(min=0)
    return torch.where(scores < 0, -magnitude, magnitude)


def just_below(row: int) -> float:
    """Largest number that is below all scores of a bin."""
    if row <= 0:
        return -_number((1 - row + _FLOOR) << _SHIFT)
    return _number(((row + _FLOOR) << _SHIFT) - 1)


def _number(bits: int) -> float:
    """The float32 that some bits stand for; the next lower number stands for one less."""
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()
