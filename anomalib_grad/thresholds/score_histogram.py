# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of best F1: from a list of scores, or for pixels from a histogram filled batch by batch."""

import torch
from torch import Tensor
from torch.nn import functional

DIGITS = 10
"""Mantissa bits of a score that its bin keeps: bins are a thousandth of the score wide."""
_SHIFT = 23 - DIGITS
_FLOOR = (127 - 24) << DIGITS
"""Scores whose magnitude is below 2^-24 share a bin."""


class ScoreHistogram:
    """Histogram of normal and anomalous scores with bins of equal relative width.

    All float32 numbers that differ only in their last mantissa bits share a bin, so the range of the scores need not be
    known first. Memory depends on that range alone: 16 kB for each factor of two, at most 700 kB for scores of one sign
    up to 2^16.
    """

    def __init__(self) -> None:
        self.first = 0  # bin of the first row
        self.counts = torch.zeros(0, 2, dtype=torch.int64)  # (bins, 2): normal, anomalous

    def update(self, scores: Tensor, anomalous: Tensor) -> None:
        """Count scores of any shape, at least one; ``anomalous`` is bool and of the same shape."""
        bins = bin_of(scores.flatten())
        low, high = (int(end) for end in torch.aminmax(bins))
        classes = 2 * (bins - low) + anomalous.flatten()
        counts = torch.bincount(classes, minlength=2 * (high - low + 1)).cpu()
        self._add(low, counts.unflatten(0, (-1, 2)))

    def merge(self, other: "ScoreHistogram") -> None:
        """Add the counts of another histogram."""
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

    @property
    def has_anomalies(self) -> bool:
        """Whether a score was anomalous."""
        return bool(self.counts[:, 1].any())

    def best_f1_threshold(self) -> float:
        """Return the value just below the lowest bin to call anomalous for the best F1.

        The F1 there is exact, not an estimate; only the choice of thresholds is limited to bin edges.
        """
        normal, anomalous = self.counts.unbind(dim=1)
        return just_below(self.first + best_f1_row(normal, anomalous))


def best_f1_row(normal: Tensor, anomalous: Tensor) -> int:
    """Return the lowest row to call anomalous, with all above it, for the best F1; the first of equals, never empty.

    Args:
        normal: Number of normal samples in each row, by ascending score, ``(rows,)``.
        anomalous: Number of anomalous samples in each row, ``(rows,)``.
    """
    found = anomalous.flip(0).cumsum(0).flip(0).double()  # (rows,): anomalous samples from this row on
    called = (normal + anomalous).flip(0).cumsum(0).flip(0)  # (rows,): samples that would be called anomalous
    f1 = 2 * found / (called + anomalous.sum())
    return int(torch.where(normal + anomalous > 0, f1, -1.0).argmax())


def best_f1_score(scores: Tensor, anomalous: Tensor) -> float:
    """Return the lowest of the scores ``(n,)`` to call anomalous for the best F1."""
    values, rows = scores.unique(return_inverse=True)
    counts = torch.bincount(2 * rows + anomalous, minlength=2 * len(values)).unflatten(0, (-1, 2))
    return float(values[best_f1_row(*counts.unbind(dim=1))])


def bin_of(scores: Tensor) -> Tensor:
    """Return the bin of each score, int32, in the order of the scores; NaN comes last."""
    magnitude = ((scores.float().abs().view(torch.int32) >> _SHIFT) - _FLOOR).clamp_(min=0)
    return torch.where(scores < 0, -magnitude, magnitude)


def just_below(row: int) -> float:
    """Return the largest number below all scores of a bin."""
    if row <= 0:
        return -_number((1 - row + _FLOOR) << _SHIFT)
    return _number(((row + _FLOOR) << _SHIFT) - 1)


def _number(bits: int) -> float:
    """Return the float32 of a bit pattern; the pattern minus one is the next lower number."""
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()
