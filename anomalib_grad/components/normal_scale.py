# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Normalisation of distances by product: one unit is the score that a tenth of its training images exceed.

Products are reconstructed more or less well: a distance of 3 may be usual for one and alarming for another. In their
own units, scores of different products compare, and one threshold serves unknown products.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PRIOR_IMAGES = 10
"""Weight of all products together in a product's unit, counted in images. A product's own few images say little, as the
head memorises them."""
USUAL_SHARE = 0.9
"""Share of the training images whose score is at most 1."""


class NormalScale(nn.Module):
    """Divide distances by the usual distance of their product.

    Attributes:
        units: Usual distance of each category and, last, of all products together; positive, shape (K + 1,). Before
            :meth:`fit` it is a single 1.
    """

    units: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("units", torch.ones(1))

    def forward(self, distance: Tensor, index: Tensor | None = None) -> Tensor:
        """Scale distances ``(B, 1, h, w)``; the result has no unit.

        ``index`` is the category of each image in [0, K], int64, shape (B,). K and ``None`` mean all products together,
        the only unit before :meth:`fit`.
        """
        if index is None or len(self.units) == 1:
            return distance / self.units[-1]
        return distance / self.units[index].view(-1, 1, 1, 1)

    @torch.no_grad()
    def fit(self, scores: Mapping[int | None, Tensor], num_categories: int) -> None:
        """Fit the units to scores of normal images.

        Args:
            scores: Scores ``(N,)`` of normal images by the index of their category; ``None`` is for images without one.
                Missing categories take the unit of all products.
            num_categories: Number of categories K.

        Raises:
            ValueError: If there are no images.
        """
        if not scores:
            raise ValueError("scaled distances are fitted to training images, but there are none; add some.")
        own = {index: usual_score(values) for index, values in scores.items()}
        weights = {index: len(values) / (len(values) + PRIOR_IMAGES) for index, values in scores.items()}
        every = geometric_mean(list(own.values()), list(weights.values()))
        units = [every] * (num_categories + 1)
        for index in own.keys() - {None}:
            units[index] = geometric_mean([own[index], every], [weights[index], 1 - weights[index]])  # type: ignore[index]
        self._take(torch.stack(units))

    def reset(self) -> None:
        """Reset the unit to 1 until the next :meth:`fit`."""
        self._take(torch.ones(1))

    def rearrange(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Order the units by the names of other categories; unknown ones take the unit of all products."""
        known = {name: place for place, name in enumerate(before) if len(before) < len(self.units)}
        self._take(self.units[[*(known.get(name, -1) for name in after), -1]])

    def make_room(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Take the number of categories from a state dict before it is loaded."""
        stored = state_dict.get(prefix + "units")
        if isinstance(stored, Tensor) and stored.ndim == 1:
            self.units = self.units.new_ones(stored.shape)

    def _take(self, units: Tensor) -> None:
        with torch.inference_mode(mode=False):  # validation's inference tensors would refuse load_state_dict later
            self.units = units.to(self.units).clone()


def usual_score(scores: Tensor) -> Tensor:
    """Return the :data:`USUAL_SHARE` quantile ``()`` of scores ``(N,)``, or 1 if it is 0, as on constant images."""
    unit = scores.float().quantile(USUAL_SHARE)
    return torch.where(unit > 0, unit, 1.0)


def geometric_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Compute the weighted geometric mean ``()`` of positive values ``()``, as units differ by factors."""
    logarithms = torch.stack(list(values)).log()
    shares = logarithms.new_tensor(weights) / sum(weights)
    return (shares * logarithms).sum().exp()
