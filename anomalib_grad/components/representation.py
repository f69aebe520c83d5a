# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The local and the global normal representation (paper section 3): coordinates from features, then a grid lookup."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .grid import ContinuousGrid, check_dimensions


def jitter_coordinates(coordinates: Tensor, std: float, probability: float) -> Tensor:
    """Shift coordinates by Gaussian noise, all of them or none (coordinate jittering of the paper).

    One coin is thrown for the whole batch. The result is not clamped. No branch depends on the coin, so a GPU is not
    waited for.

    Args:
        coordinates: Coordinates of any shape.
        std: Standard deviation of the noise, in units of the coordinates.
        probability: Probability in [0, 1] that noise is added.

    Returns:
        Coordinates of the same shape.
    """
    coin = (torch.rand((), device=coordinates.device) < probability).to(coordinates.dtype)
    return coordinates + coin * std * torch.randn_like(coordinates)


class LocalRepresentation(nn.Module):
    """One grid sample for each pixel: ``f_l = phi(v_l(x); G_l)`` with ``v_l = tanh(conv(tanh(conv(x))))``.

    Args:
        channels: Feature channels C.
        resolution: Grid cells along every axis, or one number an axis. Paper: 8.
        dims: Coordinate dimensions D. Paper: 2.
        jitter_std: Standard deviation of the coordinate noise in training. Paper: 0.05.
        jitter_probability: Probability of coordinate noise in a training step. Authors: 0.5.

    Raises:
        ValueError: If ``jitter_std`` is negative or infinite, ``jitter_probability`` no probability, or the grid is
            impossible.
    """

    def __init__(
        self,
        channels: int,
        resolution: int | Sequence[int] = 8,
        dims: int = 2,
        jitter_std: float = 0.05,
        jitter_probability: float = 0.5,
    ) -> None:
        super().__init__()
        check_dimensions(dims)
        if not 0 <= jitter_std < math.inf:
            raise ValueError(f"jitter_std must be 0 or more and finite, got {jitter_std}.")
        if not 0 <= jitter_probability <= 1:
            raise ValueError(f"jitter_probability must lie in [0, 1], got {jitter_probability}.")
        self.jitter_std = jitter_std
        self.jitter_probability = jitter_probability
        self.coordinates = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1),
            nn.Tanh(),
            nn.Conv2d(channels, dims, kernel_size=1),
            nn.Tanh(),
        )
        self.grid = ContinuousGrid(channels, resolution, dims)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, C, H, W)`` to their local normal representation of the same shape."""
        batch, _, height, width = features.shape
        coordinates = self.coordinates(features)  # (B, D, H, W)
        if self.training and self.jitter_std > 0:
            coordinates = jitter_coordinates(coordinates, self.jitter_std, self.jitter_probability)
        samples = self.grid(coordinates.permute(0, 2, 3, 1).flatten(0, 2))  # (B * H * W, C)
        return samples.view(batch, height, width, -1).permute(0, 3, 1, 2)  # (B, C, H, W)


class GlobalRepresentation(nn.Module):
    """One grid sample for each image: ``f_g = reshape(phi(v_g(x); G_g))``; a cell stores a whole feature map.

    Args:
        channels: Feature channels C.
        feature_size: Height and width of the feature maps.
        resolution: Grid cells along every axis, or one number an axis. Paper: 4.
        dims: Coordinate dimensions D. Paper: 2.

    Raises:
        ValueError: If the grid is impossible.
    """

    def __init__(
        self,
        channels: int,
        feature_size: tuple[int, int],
        resolution: int | Sequence[int] = 4,
        dims: int = 2,
    ) -> None:
        super().__init__()
        check_dimensions(dims)
        self.map_shape = (channels, *feature_size)
        self.coordinates = nn.Sequential(
            nn.Linear(channels, channels),
            nn.Tanh(),
            nn.Linear(channels, dims),
            nn.Tanh(),
        )
        self.grid = ContinuousGrid(channels * feature_size[0] * feature_size[1], resolution, dims)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, C, H, W)`` to their global normal representation of the same shape."""
        coordinates = self.coordinates(features.mean(dim=(2, 3)))  # (B, D)
        return self.grid(coordinates).unflatten(1, self.map_shape)  # (B, C, H, W)
