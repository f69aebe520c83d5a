# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous grids: a few learned vectors, sampled anywhere in between (paper equation 1)."""

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
