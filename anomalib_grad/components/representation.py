# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Normal representation: grids of a few learned vectors, sampled by interpolation (paper equation 1), and their fusion.

Coordinates are computed from features: at each position for the local representation ``f_l``, for the whole image for
the global one ``f_g`` (paper section 3). Their fusion is the normal feature map ``f_n = psi(f_g, f_l)``. All kinds of
fusion work on ``concat([f_g, f_l])`` with 2C channels and end in a 1x1 convolution back to C:

=========  ======================================  ==================
kind       blocks                                  published as
=========  ======================================  ==================
residual   7 ResNet basic blocks                   GRAD, arXiv v1
mobile     11 MobileNetV3 bottlenecks, hidden 4C   CRAD, ECCV 2024
small      11 MobileNetV3 bottlenecks, hidden C    CRAD-S
=========  ======================================  ==================
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock


def interpolation_weights(coordinates: Tensor, resolution: Sequence[int]) -> Tensor:
    """Compute the weight of every grid cell for every coordinate: D-linear interpolation (paper equation 1).

    Cell ``i`` of ``R`` is centred at ``-1 + (2 i + 1) / R``. Its weight falls linearly to zero over one cell to either
    side, so the two neighbours of a coordinate share it as ``(n - v', v' - m)``. In ``D`` dimensions the weights
    multiply. Beyond the outermost centres the weights fade to zero. This is ``grid_sample``'s bilinear mode with
    ``align_corners=False`` and zero padding, for any number of dimensions.

    Args:
        coordinates: Positions in [-1, 1], shape ``(N, D)``. Component 0 runs along the LAST grid axis.
        resolution: Number of cells of each grid axis, ``D`` entries, first axis first.

    Returns:
        Weights of shape ``(N, prod(resolution))``, cells in row-major order, non-negative, each row summing to at most
        1.
    """
    weights = coordinates.new_ones(1, 1)
    for axis, cells in enumerate(resolution):
        position = ((coordinates[:, len(resolution) - 1 - axis] + 1) * cells - 1) / 2  # v', in cells: (N,)
        centre = torch.arange(cells, dtype=position.dtype, device=position.device)
        hat = functional.relu(1 - (position.unsqueeze(1) - centre).abs())  # (N, R_axis)
        weights = (weights.unsqueeze(2) * hat.unsqueeze(1)).flatten(1)  # (N, R_1 ... R_axis)
    return weights


def sample_grid(grid: Tensor, coordinates: Tensor) -> Tensor:
    """Sample a grid ``(1, C, R_D, ..., R_1)`` at coordinates ``(N, D)``: ``phi(v; G)`` of the paper, ``(N, C)``.

    Coordinates are as in :func:`interpolation_weights`. One matrix product computes all samples, so the grid is read
    once, whatever their number.
    """
    weights = interpolation_weights(coordinates, grid.shape[2:])  # (N, cells)
    return functional.linear(weights, grid.flatten(2).squeeze(0))  # (N, C)


def check_dimensions(dims: int) -> None:
    """Refuse fewer than one dimension."""
    if dims < 1:
        raise ValueError(f"a grid needs at least 1 dimension, got {dims}.")


class ContinuousGrid(nn.Module):
    """A learned grid of ``channels`` values over ``dims`` dimensions.

    Args:
        channels: Values in each cell.
        resolution: Cells along every axis, or a list with one number per axis.
        dims: Number of dimensions D >= 1 of the coordinates.

    Raises:
        ValueError: If ``dims`` or a resolution is below 1, if there are not ``dims`` resolutions, or if the grid is
            larger than this machine's memory.
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
                f"a grid of {sizes} cells x {channels} channels exceeds this machine's memory; choose fewer cells."
            )
        self.cells = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, channels, *shape)))  # as the authors do

    @property
    def resolution(self) -> tuple[int, ...]:
        """Cells along each axis, first axis first."""
        return tuple(self.cells.shape[2:])

    def forward(self, coordinates: Tensor) -> Tensor:
        """Sample at ``(N, D)`` coordinates; returns ``(N, C)``."""
        return sample_grid(self.cells, coordinates)


def jitter_coordinates(coordinates: Tensor, std: float, probability: float) -> Tensor:
    """Add Gaussian noise to all coordinates or to none (coordinate jittering of the paper).

    One random choice holds for the whole batch, of any shape: with a probability in [0, 1], noise of standard deviation
    ``std``, in units of the coordinates, is added. The result is not clamped. No branch depends on the choice, so the
    CPU need not wait for a GPU.
    """
    coin = (torch.rand((), device=coordinates.device) < probability).to(coordinates.dtype)
    return coordinates + coin * std * torch.randn_like(coordinates)


class LocalRepresentation(nn.Module):
    """One grid sample per position: ``f_l = phi(v_l(x); G_l)`` with ``v_l = tanh(conv(tanh(conv(x))))``.

    Args:
        channels: Feature channels C.
        resolution: Grid cells along every axis, or a list with one number per axis. Paper: 8.
        dims: Coordinate dimensions D. Paper: 2.
        jitter_std: Standard deviation of the coordinate noise in training. Paper: 0.05.
        jitter_probability: Probability of coordinate noise in a training step. Authors: 0.5.

    Raises:
        ValueError: If ``jitter_std`` is negative or infinite, ``jitter_probability`` is not in [0, 1], or the grid is
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
            raise ValueError(f"jitter_std must be at least 0 and finite, got {jitter_std}.")
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
    """One grid sample per image: ``f_g = reshape(phi(v_g(x); G_g))``; each cell stores a whole feature map.

    Args:
        channels: Feature channels C.
        feature_size: Height and width of the feature maps.
        resolution: Grid cells along every axis, or a list with one number per axis. Paper: 4.
        dims: Coordinate dimensions D. Paper: 2.

    Raises:
        ValueError: If the grid is impossible.
    """

    def __init__(
        self, channels: int, feature_size: tuple[int, int], resolution: int | Sequence[int] = 4, dims: int = 2
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


class SqueezeExcite(nn.Module):
    """MobileNetV3's channel gate, with bias-free layers and a hard sigmoid (arXiv 1905.02244).

    Args:
        channels: Channels of the gated map; the gate's hidden layer has a quarter as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 1)
        self.gate = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel of ``(B, C, H, W)`` by its gate in [0, 1]."""
        return x * self.gate(x.mean(dim=(2, 3)))[:, :, None, None]


class Bottleneck(nn.Module):
    """The authors' MobileNetV3 bottleneck: the second hard-swish comes AFTER the squeeze-excite gate.

    The blocks of timm and torchvision activate before the gate, so they cannot be used instead.

    Args:
        channels: Channels in and out.
        hidden: Channels of the depthwise convolution.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            SqueezeExcite(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's output to its input; shapes ``(B, C, H, W)``."""
        return x + self.layers(x)


class FusionKind(NamedTuple):
    """Published size of one kind of fusion."""

    num_blocks: int
    hidden_factor: int | None  # hidden channels of a bottleneck in units of C; None for blocks without them


FUSIONS = {
    "residual": FusionKind(7, None),
    "mobile": FusionKind(11, 4),
    "small": FusionKind(11, 1),
}


class Fusion(nn.Module):
    """Blocks over the concatenated representations, then a convolution back to C channels: ``f_n = psi(f_g, f_l)``.

    Args:
        channels: Feature channels C.
        kind: ``residual``, ``mobile`` or ``small``.
        num_blocks: Number of blocks; ``None`` takes the published one.
        hidden_channels: Hidden channels of a bottleneck; ``None`` takes the published 4C or C.

    Raises:
        ValueError: If ``kind`` is unknown, or a number does not suit it.
    """

    def __init__(
        self, channels: int, kind: str = "mobile", num_blocks: int | None = None, hidden_channels: int | None = None
    ) -> None:
        super().__init__()
        if kind not in FUSIONS:
            raise ValueError(f"unknown fusion {kind!r}; choose one of {', '.join(FUSIONS)}.")
        published = FUSIONS[kind]
        num_blocks = published.num_blocks if num_blocks is None else num_blocks
        if not isinstance(num_blocks, int) or num_blocks < 0:
            raise ValueError(f"num_blocks must be a whole number of at least 0, got {num_blocks}.")
        if published.hidden_factor is None:
            if hidden_channels is not None:
                raise ValueError(f"fusion {kind!r} has no hidden channels; do not set hidden_channels.")
            blocks: list[nn.Module] = [BasicBlock(2 * channels, 2 * channels) for _ in range(num_blocks)]
        else:
            hidden = published.hidden_factor * channels if hidden_channels is None else hidden_channels
            if not isinstance(hidden, int) or hidden < 1:
                raise ValueError(f"hidden_channels must be a whole number of at least 1, got {hidden}.")
            blocks = [Bottleneck(2 * channels, hidden) for _ in range(num_blocks)]
        self.blocks = nn.Sequential(*blocks)
        self.recover = nn.Conv2d(2 * channels, channels, kernel_size=1, bias=False)

    def forward(self, global_map: Tensor, local_map: Tensor) -> Tensor:
        """Fuse ``(B, C, H, W)`` global and local maps into the normal map ``f_n`` of that shape."""
        return self.recover(self.blocks(torch.cat([global_map, local_map], dim=1)))
