# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Ignored regions of a product's images: a holder, a background, a stamp that differs on every part.

Distances are weighted before smoothing, so that an ignored region affects neither the rest of the map nor the image
score. The map is then set to exactly 0 in the ignored pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class IgnoredRegions(nn.Module):
    """Remove the ignored regions of each category from distances and maps.

    Args:
        kept: Judged pixels of each of K categories and, last, of images of unknown category; bool, shape (K + 1, 1, H,
            W).
        spread: Matrices that spread distances over pixels, along the height (H, h) and the width (W, w). They are not
            negative, and no column is all zeros.

    Attributes:
        kept: As given.
        shares: Share of each distance cell's spread that falls on judged pixels, in [0, 1], shape (K + 1, 1, h, w).
    """

    kept: Tensor
    shares: Tensor

    def __init__(self, kept: Tensor, spread: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.register_buffer("kept", kept)
        height, width = (matrix.cpu().double() for matrix in spread)  # Apple's GPUs lack float64
        height, width = height / height.sum(dim=0), width / width.sum(dim=0)
        self.register_buffer("shares", (height.T @ kept.cpu().double() @ width).float().to(kept.device))

    def weigh(self, distance: Tensor, index: Tensor | None = None) -> Tensor:
        """Weight distances ``(B, 1, h, w)`` by the share of each that is judged in its category.

        ``index`` is the category of each image in [0, K], int64, shape (B,); ``None`` takes the last row.
        """
        return distance * self._rows(self.shares, index).to(distance.dtype)

    def cut(self, anomaly_map: Tensor, index: Tensor | None = None) -> Tensor:
        """Set anomaly maps ``(B, 1, H, W)`` to 0 in ignored pixels; ``index`` as in :meth:`weigh`."""
        return torch.where(self._rows(self.kept, index), anomaly_map, 0.0)

    def pixels(self, index: Tensor | None = None) -> Tensor:
        """Return the ignored pixels, bool ``(B, H, W)``; without ``index`` ``(1, H, W)``, the same for all images."""
        return ~self._rows(self.kept, index).squeeze(1)

    def rearranged(self, before: Sequence[str], after: Sequence[str]) -> Tensor:
        """Return ``kept`` in the order of other categories; unknown ones ignore nothing."""
        known = dict(zip(before, self.kept, strict=False)) if len(before) < len(self.kept) else {}
        everything = torch.ones_like(self.kept[-1])
        return torch.stack([*(known.get(name, everything) for name in after), everything])

    @staticmethod
    def _rows(values: Tensor, index: Tensor | None) -> Tensor:
        return values[-1:] if index is None or len(values) == 1 else values[index]
