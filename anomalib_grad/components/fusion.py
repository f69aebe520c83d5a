# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Fusion of the global and the local representation into the normal feature map (paper: psi).

All kinds work on ``concat([f_g, f_l])`` with 2C channels and end in a 1x1 convolution back to C:

=========  ======================================  ==================
kind       blocks                                  published as
=========  ======================================  ==================
residual   7 ResNet basic blocks                   GRAD, arXiv v1
mobile     11 MobileNetV3 bottlenecks, hidden 4C   CRAD, ECCV 2024
small      11 MobileNetV3 bottlenecks, hidden C    CRAD-S
=========  ======================================  ==================
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class SqueezeExcite(nn.Module):
    """Channel gate of MobileNetV3 with bias-free layers and a hard sigmoid (arXiv 1905.02244).

    Args:
        channels: Channels of the gated map.
        reduction: Factor by which the gate's hidden layer is narrower.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
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
    """MobileNetV3 bottleneck of the authors: the second hard-swish comes AFTER the squeeze-excite gate.

    timm's and torchvision's blocks activate before the gate, so they cannot stand in for it.

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
    """The published shape of one kind of fusion."""

    num_blocks: int
    hidden_factor: int | None  # hidden channels of a bottleneck in units of C; None for blocks without any


FUSIONS = {
    "residual": FusionKind(7, None),
    "mobile": FusionKind(11, 4),
    "small": FusionKind(11, 1),
}


class Fusion(nn.Module):
    """Blocks over the concatenated representations, then the recovery to C channels: ``f_n = psi(f_g, f_l)``.

    Args:
        channels: Feature channels C.
        kind: ``residual``, ``mobile`` or ``small``.
        num_blocks: Number of blocks; ``None`` takes the published one.
        hidden_channels: Hidden channels of a bottleneck; ``None`` takes the published 4C or C.

    Raises:
        ValueError: If ``kind`` is unknown, or a number does not fit it.
    """

    def __init__(
        self,
        channels: int,
        kind: str = "mobile",
        num_blocks: int | None = None,
        hidden_channels: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in FUSIONS:
            raise ValueError(f"unknown fusion {kind!r}; choose one of {', '.join(FUSIONS)}.")
        published = FUSIONS[kind]
        num_blocks = published.num_blocks if num_blocks is None else num_blocks
        if not isinstance(num_blocks, int) or num_blocks < 0:
            raise ValueError(f"num_blocks must be a whole number, 0 or more, got {num_blocks}.")
        if published.hidden_factor is None:
            if hidden_channels is not None:
                raise ValueError(f"fusion {kind!r} has no hidden channels to set; leave hidden_channels out.")
            blocks: list[nn.Module] = [BasicBlock(2 * channels, 2 * channels) for _ in range(num_blocks)]
        else:
            hidden = published.hidden_factor * channels if hidden_channels is None else hidden_channels
            if not isinstance(hidden, int) or hidden < 1:
                raise ValueError(f"hidden_channels must be a whole number, 1 or more, got {hidden}.")
            blocks = [Bottleneck(2 * channels, hidden) for _ in range(num_blocks)]
        self.blocks = nn.Sequential(*blocks)
        self.recover = nn.Conv2d(2 * channels, channels, kernel_size=1, bias=False)

    def forward(self, global_map: Tensor, local_map: Tensor) -> Tensor:
        """Fuse ``(B, C, H, W)`` global and local maps into the normal map ``f_n`` of that shape."""
        return self.recover(self.blocks(torch.cat([global_map, local_map], dim=1)))
