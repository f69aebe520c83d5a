# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How much normal images vary where the head cannot explain them, product by product: what an error is measured in.

An error counts by how unusual it is: along its direction (the covariance of the product's errors, a Mahalanobis
distance), at its place (edges and threads are restored worse than plain surfaces, on good parts as well), and for its
product (the score 1 is exceeded by a tenth of the product's training images).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

OWN_SHARE = 0.7
"""Share of a product's own covariance in what its errors are measured by; the rest is that of all products."""
SHRINKAGE = 0.3
"""Share of the mean variance in the variance along each direction."""
EVENNESS = 0.3
"""Share of the mean over all places in what is usual at one. Turned products suffer below it."""
PRIOR_IMAGES = 10
"""Images that all products together weigh as much as for one: few images say little, and the head knows them by heart.
"""
USUAL_SHARE = 0.9
"""Share of the training images whose score is at most 1."""
NOTHING = 1e-12
"""Mean square of errors that are none, as on constant images; far below those of any backbone's features."""

Errors = Iterable[tuple[Tensor, Sequence[int | None]]]
"""Batches of errors ``(B, C, h, w)`` of normal images, with the index of each image's category or ``None``."""


class NormalVariation(nn.Module):
    """Turn errors into distances in units of what is usual.

    Args:
        channels: Channels C of an error.
        feature_size: Height and width of the error maps.

    Attributes:
        matrices: ``M`` with ``|M e|`` the Mahalanobis length of ``e``, by category, those of all products together
            last: shape (K + 1, C, C); the identity before :meth:`fit`.
        usual: What the distance is divided by at each place, shape (K + 1, 1, h, w); 1 before :meth:`fit`.
    """

    matrices: Tensor
    usual: Tensor

    def __init__(self, channels: int, feature_size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("matrices", torch.eye(channels).unsqueeze(0))
        self.register_buffer("usual", torch.ones(1, 1, *feature_size))

    def forward(self, error: Tensor, index: Tensor | None = None) -> Tensor:
        """Measure errors.

        Args:
            error: Errors ``(B, C, h, w)``.
            index: Category of each image in [0, K], int64, shape (B,); K and ``None`` are all products together, which
                are all there is before :meth:`fit`.

        Returns:
            Distances ``(B, 1, h, w)``, non-negative, without a unit.
        """
        matrices, usual = self.matrices[-1:], self.usual[-1:]
        if index is not None and len(self.usual) > 1:
            matrices, usual = self.matrices[index], self.usual[index]  # (B, C, C), (B, 1, h, w)
        with torch.autocast(error.device.type, enabled=False):
            rows = matrices @ error.to(matrices.dtype).flatten(2)  # (B, C, h * w)
            return rows.unflatten(2, error.shape[2:]).norm(dim=1, keepdim=True) / usual

    @torch.no_grad()
    def fit(
        self, errors: Callable[[], Errors], num_categories: int, score: Callable[[Tensor], Tensor]
    ) -> dict[int | None, int]:
        """Learn what is usual; runs over the errors twice.

        Args:
            errors: Gives the errors of the same normal images each time. Categories without any take what is usual for
                all.
            num_categories: Number of categories K.
            score: Image scores ``(N,)`` of distances ``(N, 1, h, w)``.

        Returns:
            Number of images of each category that had any.

        Raises:
            ValueError: If there is not one image.
        """
        moments, images = second_moments(errors())
        if not images:
            raise ValueError("what is usual cannot be learnt without training images, and there is none.")
        weights = {index: count / (count + PRIOR_IMAGES) for index, count in images.items()}
        everywhere = torch.stack(list(moments.values())).mean(dim=0)  # (C, C), products alike
        rows = [inverse_root(everywhere)] * (num_categories + 1)
        for index in moments.keys() - {None}:
            rows[index] = inverse_root(everywhere.lerp(moments[index], OWN_SHARE * weights[index]))  # type: ignore[index]
        size = self.usual.shape[1:]
        self._take(torch.stack(rows).float(), torch.ones(num_categories + 1, *size))
        found: dict[int | None, list[Tensor]] = {index: [] for index in images}
        for error, indices in errors():
            own = [num_categories if index is None else index for index in indices]
            for index, row in zip(indices, self(error, torch.tensor(own, device=error.device)), strict=True):
                found[index].append(row)
        distances = {index: torch.stack(parts) for index, parts in found.items()}  # (N, 1, h, w) each
        self._take(self.matrices, usual_maps(distances, weights, num_categories, score))
        return images

    def rearrange(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Give the rows the order of other categories; what is usual for all takes the place of unknown ones.

        Args:
            before: Names of the K categories that the rows belong to.
            after: Names of those that they shall belong to.
        """
        known = {name: row for row, name in enumerate(before) if len(before) < len(self.usual)}
        rows = [*(known.get(name, -1) for name in after), -1]
        self._take(self.matrices[rows], self.usual[rows])

    def make_room(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Take the number of categories from a state dict that is about to be loaded."""
        for name in ("matrices", "usual"):
            stored, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(stored, Tensor) and stored.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_ones(stored.shape))

    def _take(self, matrices: Tensor, usual: Tensor) -> None:
        with torch.inference_mode(mode=False):  # validation runs in it, and its tensors cannot be loaded into later
            self.matrices, self.usual = matrices.to(self.matrices).clone(), usual.to(self.usual).clone()


def second_moments(errors: Errors) -> tuple[dict[int | None, Tensor], dict[int | None, int]]:
    """Mean of ``e e^T`` over the cells of each category's images ``(C, C)``, and their number of images."""
    sums: dict[int | None, Tensor] = {}
    images: dict[int | None, int] = {}
    for error, indices in errors:
        for index, own in zip(indices, error.flatten(2).double(), strict=True):  # own: (C, h * w)
            sums[index] = sums.get(index, torch.zeros((), device=own.device)) + own @ own.T / own.shape[1]
            images[index] = images.get(index, 0) + 1
    return {index: total / images[index] for index, total in sums.items()}, images


def inverse_root(moment: Tensor) -> Tensor:
    """``M`` with ``M^T M`` the inverse of a shrunk second moment, both ``(C, C)``; the identity where there is none."""
    mean = moment.diagonal().mean()
    identity = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    if not mean > NOTHING:
        return identity
    shrunk = (1 - SHRINKAGE) * moment + SHRINKAGE * mean * identity
    factor = torch.linalg.cholesky(shrunk)  # L L^T
    return torch.linalg.solve_triangular(factor, identity, upper=False) / len(moment) ** 0.5


def usual_maps(
    distances: Mapping[int | None, Tensor],
    weights: Mapping[int | None, float],
    num_categories: int,
    score: Callable[[Tensor], Tensor],
) -> Tensor:
    """What distance is usual at each place of each product, those of all together last: ``(K + 1, 1, h, w)``.

    Args:
        distances: Distances ``(N, 1, h, w)`` of the normal images of each category.
        weights: Weight of a category's own images, in (0, 1); the rest is that of all.
        num_categories: Number of categories K.
        score: Image scores ``(N,)`` of distances.
    """
    shapes = {index: shape_of(own.mean(dim=0, keepdim=True)) for index, own in distances.items()}
    all_shapes = torch.cat(list(shapes.values())).mean(dim=0, keepdim=True)  # (1, 1, h, w), products alike
    everywhere = root_around(all_shapes)
    heights = [height_of(score(own / everywhere)) for own in distances.values()]
    height = geometric_mean(heights, list(weights.values()))
    rows = [everywhere * height] * (num_categories + 1)
    for index, own in distances.items():
        if index is not None:
            usual = root_around(all_shapes.lerp(shapes[index], weights[index]))
            own_height = height_of(score(own / usual))
            rows[index] = usual * geometric_mean([own_height, height], [weights[index], 1 - weights[index]])
    return torch.cat(rows)


def shape_of(mean: Tensor) -> Tensor:
    """Mean distances ``(1, 1, h, w)`` over their mean: where they are large, however large they are; 1 without any."""
    level = mean.mean()
    return mean / level if level > 0 else torch.ones_like(mean)


def root_around(shape: Tensor) -> Tensor:
    """Root of what is usual around every place: ``(1, 1, h, w)`` to the same, positive."""
    around = functional.avg_pool2d(shape, 3, stride=1, padding=1, count_include_pad=False)
    return ((1 - EVENNESS) * around + EVENNESS * around.mean()).sqrt()


def height_of(scores: Tensor) -> Tensor:
    """The score ``()`` that most of the scores ``(N,)`` of normal images do not exceed; 1 where they have none."""
    height = scores.float().quantile(USUAL_SHARE)
    return torch.where(height > 0, height, 1.0)


def geometric_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted geometric mean ``()`` of positive values ``()``: levels differ by factors."""
    logarithms = torch.stack(list(values)).log()
    shares = logarithms.new_tensor(weights) / sum(weights)
    return (shares * logarithms).sum().exp()
