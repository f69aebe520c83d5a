# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Regions of a product's images that do not matter: a holder, a background, a stamp that differs on every part.

Distances are weighed before they are smoothed, so that nothing from an ignored region reaches the rest of the map or
the image score; the map is then cut to exactly 0 where nothing is judged.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class IgnoredRegions(nn.Module):
    """Leaves out of distances and maps what is ignored in the images of each category.

    Args:
        kept: Pixels that are judged, for each of K categories and, last, for images of no known one: bool, shape
            (K + 1, 1, H, W).
        spread: How distances are spread over pixels, along the height (H, h) and along the width (W, w): not negative,
            every column with something in it.

    Attributes:
        kept: As given.
        shares: How much of what each cell of a distance map spreads over the image lies in pixels that are judged, in
            [0, 1], shape (K + 1, 1, h, w).
    """

    kept: Tensor
    shares: Tensor

    def __init__(self, kept: Tensor, spread: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.register_buffer("kept", kept)
        height, width = (matrix.to(kept.device, torch.float64) for matrix in spread)
        height, width = height / height.sum(dim=0), width / width.sum(dim=0)
        self.register_buffer("shares", (height.T @ kept.double() @ width).float())

    def weigh(self, distance: Tensor, index: Tensor | None = None) -> Tensor:
        """Weigh distances ``(B, 1, h, w)`` by how much of them counts for their category.

        ``index`` is the category of each image in [0, K], int64, shape (B,); ``None`` takes the last row.
        """
        return distance * self._rows(self.shares, index).to(distance.dtype)

    def cut(self, anomaly_map: Tensor, index: Tensor | None = None) -> Tensor:
        """Set anomaly maps ``(B, 1, H, W)`` to 0 where nothing is judged; ``index`` as in :meth:`weigh`."""
        return torch.where(self._rows(self.kept, index), anomaly_map, 0.0)

    def pixels(self, index: Tensor | None = None) -> Tensor:
        """Pixels ``(B, H, W)`` that are ignored, bool; ``(1, H, W)``, the same for all images, without ``index``."""
        return ~self._rows(self.kept, index).squeeze(1)

    def rearranged(self, before: Sequence[str], after: Sequence[str]) -> Tensor:
        """Give ``kept`` in the order of other categories; nothing is ignored in those that are not known."""
        known = dict(zip(before, self.kept, strict=False)) if len(before) < len(self.kept) else {}
        everything = torch.ones_like(self.kept[-1])
        return torch.stack([*(known.get(name, everything) for name in after), everything if after else self.kept[-1]])

    @staticmethod
    def _rows(values: Tensor, index: Tensor | None) -> Tensor:
        return values[-1:] if index is None or len(values) == 1 else values[index]
