# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Variants of training that the study tries and the package does not have, because they did not pay."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_grad import Grad


class FeatureDropout(Grad):
    """Sees a tenth of the features' values as zero and has to restore them (Dinomaly's noisy bottleneck)."""

    def training_loss(self, features: Tensor) -> Tensor:
        """Refine clean features by the normal map of noisy ones."""
        head = self.model.head
        refined, _ = head.refine(features, head.normal(functional.dropout(features, 0.1)))
        return functional.mse_loss(refined, features)


class HardMining(Grad):
    """Weighs cells by the root of their error, so that easy ones count less."""

    def training_loss(self, features: Tensor) -> Tensor:
        """Give the weighted mean of the squared errors."""
        errors = (self.model.head(features).refined - features).square().mean(dim=1)  # (B, h, w)
        weights = errors.detach().sqrt()
        return (weights * errors).mean() / weights.mean()


class Positions(nn.Module):
    """Adds a linear function of the position to every feature."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        axes = [torch.linspace(-1, 1, length) for length in size]
        self.register_buffer("positions", torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0))
        self.positions: Tensor  # (1, 2, h, w)
        self.embedding = nn.Conv2d(2, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to the same shape."""
        return features + self.embedding(self.positions)


class PositionAware(Grad):
    """Local coordinates depend on the position as well, which helps where products are aligned."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Grad's
        super().__init__(*args, **kwargs)
        local = self.model.head.local_representation
        positions = Positions(self.model.backbone.channels, self.model.backbone.feature_size)
        local.coordinates = nn.Sequential(positions, *local.coordinates)
