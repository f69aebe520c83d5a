# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""One unit of distance for all products: what a tenth of a product's training images exceed.

Products are restored more or less well, so that a distance of 3 may be usual for one and alarming for another. In units
of their own normal images scores of different products compare, and one threshold serves a product that is not known.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PRIOR_IMAGES = 10
"""Images that all products together weigh as much as for one: few say little, and the head knows them by heart."""
USUAL_SHARE = 0.9
"""Share of the training images whose score is at most 1."""


class NormalScale(nn.Module):
    """Divides distances by what is usual for their product.

    Attributes:
        units: Distance that is usual for each category, for all products together last; positive, shape (K + 1,). It is
            1 before :meth:`fit`.
    """

    units: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("units", torch.ones(1))

    def forward(self, distance: Tensor, index: Tensor | None = None) -> Tensor:
        """Scale distances ``(B, 1, h, w)``, which then have no unit.

        ``index`` is the category of each image in [0, K], int64, shape (B,); K and ``None`` are all products together,
        which are all there is before :meth:`fit`.
        """
        if index is None or len(self.units) == 1:
            return distance / self.units[-1]
        return distance / self.units[index].view(-1, 1, 1, 1)

    @torch.no_grad()
    def fit(self, scores: Mapping[int | None, Tensor], num_categories: int) -> None:
        """Learn what is usual.

        Args:
            scores: Scores ``(N,)`` of normal images by the index of their category, ``None`` for images without.
                Categories that are missing take what is usual for all.
            num_categories: Number of categories K.

        Raises:
            ValueError: If there is not one image.
        """
        if not scores:
            raise ValueError("what is usual cannot be learnt without training images, and there is none.")
        own = {index: usual(values) for index, values in scores.items()}
        weights = {index: len(values) / (len(values) + PRIOR_IMAGES) for index, values in scores.items()}
        every = geometric_mean(list(own.values()), list(weights.values()))
        units = [every] * (num_categories + 1)
        for index in own.keys() - {None}:
            units[index] = geometric_mean([own[index], every], [weights[index], 1 - weights[index]])  # type: ignore[index]
        self._take(torch.stack(units))

    def reset(self) -> None:
        """Forget what is usual; the unit is 1 until the next :meth:`fit`."""
        self._take(torch.ones(1))

    def rearrange(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Order the units as the names of other categories; what is usual for all takes the place of unknown ones."""
        known = {name: place for place, name in enumerate(before) if len(before) < len(self.units)}
        self._take(self.units[[*(known.get(name, -1) for name in after), -1]])

    def make_room(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Take the number of categories from a state dict that is about to be loaded."""
        stored = state_dict.get(prefix + "units")
        if isinstance(stored, Tensor) and stored.ndim == 1:
            self.units = self.units.new_ones(stored.shape)

    def _take(self, units: Tensor) -> None:
        with torch.inference_mode(mode=False):  # validation runs in it, and its tensors cannot be loaded into later
            self.units = units.to(self.units).clone()


def usual(scores: Tensor) -> Tensor:
    """The score ``()`` that most of the scores ``(N,)`` do not exceed; 1 where they are 0, as on constant images."""
    unit = scores.float().quantile(USUAL_SHARE)
    return torch.where(unit > 0, unit, 1.0)


def geometric_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted geometric mean ``()`` of positive values ``()``: levels differ by factors."""
    logarithms = torch.stack(list(values)).log()
    shares = logarithms.new_tensor(weights) / sum(weights)
    return (shares * logarithms).sum().exp()
