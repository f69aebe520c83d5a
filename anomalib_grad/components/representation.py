# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous normal representations: a few learned vectors in a grid (paper equation 1), looked up in between.

Coordinates come from features: of each place for the local representation, of the whole image for the global one
(paper section 3).
"""

import math
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional


def interpolation_weights(coordinates: Tensor, resolution: Sequence[int]) -> Tensor:
    """Give the weight of every grid cell for every coordinate: D-linear interpolation (paper equation 1).

    Cell ``i`` of ``R`` is centred at ``-1 + (2 i + 1) / R`` and its weight falls linearly to zero over one cell to
    either side, so the two neighbours of a coordinate share it as ``(n - v', v' - m)``. In ``D`` dimensions the weights
    multiply. Outside the outermost centres they fade towards zero. This is ``grid_sample``'s bilinear mode with
    ``align_corners=False`` and zero padding, for any number of dimensions.

    Args:
        coordinates: Positions in [-1, 1], shape ``(N, D)``. Component 0 runs along the LAST grid axis.
        resolution: Number of cells of each grid axis, ``D`` entries, first axis first.

    Returns:
        Weights of shape ``(N, prod(resolution))``, cells in row-major order, non-negative, each row summing to at
        most 1.
    """
    weights = coordinates.new_ones(1, 1)
    for axis, cells in enumerate(resolution):
        position = ((coordinates[:, len(resolution) - 1 - axis] + 1) * cells - 1) / 2  # v', in cells: (N,)
        centre = torch.arange(cells, dtype=position.dtype, device=position.device)
        hat = functional.relu(1 - (position.unsqueeze(1) - centre).abs())  # (N, R_axis)
        weights = (weights.unsqueeze(2) * hat.unsqueeze(1)).flatten(1)  # (N, R_1 ... R_axis)
    return weights


def sample_grid(grid: Tensor, coordinates: Tensor) -> Tensor:
    """Sample a grid at many coordinates: ``phi(v; G)`` of the paper.

    The samples are one matrix product, so the grid is read once however many samples are taken.

    Args:
        grid: Grid of shape ``(1, C, R_D, ..., R_1)``.
        coordinates: Positions in [-1, 1], shape ``(N, D)``. Component 0 runs along the LAST grid axis.

    Returns:
        Samples of shape ``(N, C)``.
    """
    weights = interpolation_weights(coordinates, grid.shape[2:])  # (N, cells)
    return functional.linear(weights, grid.flatten(2).squeeze(0))  # (N, C)


def check_dimensions(dims: int) -> None:
    """Refuse fewer than one dimension.

    Raises:
        ValueError: If ``dims`` is below 1.
    """
    if dims < 1:
        raise ValueError(f"a grid needs at least 1 dimension, got {dims}.")


class ContinuousGrid(nn.Module):
    """A learned grid of ``channels`` values over ``dims`` dimensions.

    Args:
        channels: Values in each cell.
        resolution: Cells along every axis, or one number for each of the axes.
        dims: Number of dimensions D >= 1 of the coordinates.

    Raises:
        ValueError: If ``dims`` or a resolution is below 1, their number differs from ``dims``, or the grid is larger
            than this machine's memory.
    """

    def __init__(self, channels: int, resolution: int | Sequence[int], dims: int = 2) -> None:
        super().__init__()
        check_dimensions(dims)
        shape = [resolution] * dims if isinstance(resolution, int) else list(resolution)
        if len(shape) != dims or min(shape) < 1:
            raise ValueError(f"a {dims}-dimensional grid needs {dims} resolutions of at least 1, got {shape}.")
        if 4 * channels * math.prod(shape) > psutil.virtual_memory().total:  # bytes of float32
            sizes = " x ".join(map(str, shape))
            raise ValueError(
                f"a grid of {sizes} cells x {channels} channels exceeds this machine's memory; take fewer."
            )
        self.cells = nn.Parameter(torch.empty(1, channels, *shape))
        self.reset_parameters()

    @property
    def resolution(self) -> tuple[int, ...]:
        """Cells along each axis, first axis first."""
        return tuple(self.cells.shape[2:])

    def reset_parameters(self) -> None:
        """Draw Xavier normal values, as the authors do.

        Xavier's fans of a ``(1, C, cells...)`` tensor are ``C * cells`` and ``cells``.
        """
        cells = math.prod(self.resolution)
        nn.init.normal_(self.cells, std=math.sqrt(2 / (cells * (self.cells.shape[1] + 1))))

    def forward(self, coordinates: Tensor) -> Tensor:
        """Sample at ``(N, D)`` coordinates; returns ``(N, C)``."""
        return sample_grid(self.cells, coordinates)


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
