# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD head: all trained parts, from the frozen features to the refined ones.

Features are refined where they are close to the normal features of their place (paper section 3.4).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .representation import Fusion, GlobalRepresentation, LocalRepresentation


def similarity(
    features: Tensor,
    normal: Tensor,
    mse_threshold: Tensor | float,
    indicator_weight: float = 0.3,
    cosine_weight: float = 0.7,
) -> Tensor:
    """Measure how similar features and their normal map are: ``S = 0.3 * 1[mse <= k] + 0.7 * cos``.

    ``S`` is neither clamped nor detached: gradients flow through the cosine, but not through the indicator.

    Args:
        features: ``x`` of shape ``(B, C, H, W)``.
        normal: ``f_n`` of the same shape.
        mse_threshold: ``k`` in squared feature units.
        indicator_weight: Weight of the indicator. Paper: 0.3.
        cosine_weight: Weight of the cosine similarity. Paper: 0.7.

    Returns:
        ``S`` of shape ``(B, 1, H, W)``, in [-cosine_weight, indicator_weight + cosine_weight].
    """
    mse = (normal - features).square().mean(dim=1, keepdim=True)  # (B, 1, H, W)
    indicator = (mse <= mse_threshold).to(mse.dtype)
    return indicator_weight * indicator + cosine_weight * cosine_similarity(features, normal)


def cosine_similarity(features: Tensor, normal: Tensor) -> Tensor:
    """Compute the cosine of maps ``(B, C, H, W)`` over channels: ``(B, 1, H, W)``, 0 where a map is 0."""
    eps = max(1e-8, torch.finfo(features.dtype).tiny)  # torch's 1e-8 is 0 in float16, where a zero vector gives nan
    return functional.cosine_similarity(features, normal, dim=1, eps=eps).unsqueeze(1)


def refine(features: Tensor, normal: Tensor, similarity_map: Tensor) -> Tensor:
    """Blend features and normal map: ``x_hat = S * x + (1 - S) * f_n``; all ``(B, C, H, W)``, S ``(B, 1, H, W)``."""
    return similarity_map * features + (1 - similarity_map) * normal


class Refinement(NamedTuple):
    """Output of the head for features ``x``."""

    refined: Tensor  # x_hat (B, C, H, W)
    similarity: Tensor  # S (B, 1, H, W)


class GradHead(nn.Module):
    """Continuous normal representation of feature maps (paper section 3).

    Args:
        channels: Feature channels C.
        feature_size: Height and width of the feature maps.
        fusion: ``residual`` (GRAD), ``mobile`` (CRAD) or ``small`` (CRAD-S).
        num_blocks: Fusion blocks; ``None`` takes the published number.
        hidden_channels: Hidden channels of a fusion bottleneck; ``None`` takes the published number.
        local_resolution, local_dims: Cells per axis and dimensions of the local grid. Paper: 8 and 2.
        global_resolution, global_dims: Cells per axis and dimensions of the global grid. Paper: 4 and 2.
        jitter_std, jitter_probability: Coordinate jittering in training. Paper: 0.05 and 0.5.
        indicator_weight, cosine_weight: Weights of the similarity. Paper: 0.3 and 0.7.
        mse_threshold: ``k`` of the similarity's indicator, in squared feature units.

    Attributes:
        drawn: First value of each parameter right after initialisation; ``None`` in exports and in older checkpoints.
    """

    drawn: Tensor | None = None

    def __init__(
        self,
        channels: int,
        feature_size: tuple[int, int],
        fusion: str = "mobile",
        num_blocks: int | None = None,
        hidden_channels: int | None = None,
        local_resolution: int | Sequence[int] = 8,
        local_dims: int = 2,
        global_resolution: int | Sequence[int] = 4,
        global_dims: int = 2,
        jitter_std: float = 0.05,
        jitter_probability: float = 0.5,
        indicator_weight: float = 0.3,
        cosine_weight: float = 0.7,
        mse_threshold: float = 10.0,
    ) -> None:
        super().__init__()
        for name, weight in {"indicator_weight": indicator_weight, "cosine_weight": cosine_weight}.items():
            if not 0 <= weight <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {weight}.")
        self.indicator_weight = indicator_weight
        self.cosine_weight = cosine_weight
        self.fusion = Fusion(channels, fusion, num_blocks, hidden_channels)
        self.global_representation = GlobalRepresentation(channels, feature_size, global_resolution, global_dims)
        self.local_representation = LocalRepresentation(
            channels, local_resolution, local_dims, jitter_std, jitter_probability
        )
        self.register_buffer("mse_threshold", torch.tensor(float(mse_threshold)))
        self.mse_threshold: Tensor
        self.configuration: dict[str, Any] = {
            "fusion": fusion,
            "num_blocks": len(self.fusion.blocks),
            "hidden_channels": hidden_channels,
            "local_resolution": list(self.local_representation.grid.resolution),
            "global_resolution": list(self.global_representation.grid.resolution),
            "indicator_weight": indicator_weight,
            "cosine_weight": cosine_weight,
        }
        self.apply(init_weights)
        self.drawn = self._first_values()

    def forward(self, features: Tensor) -> Refinement:
        """Refine features ``x`` ``(B, C, H, W)`` towards their normal map."""
        return self.refine(features, self.normal(features))

    def normal(self, features: Tensor) -> Tensor:
        """Compute the normal map ``f_n`` of features ``(B, C, H, W)``; same shape."""
        return self.fusion(self.global_representation(features), self.local_representation(features))

    def refine(self, features: Tensor, normal: Tensor) -> Refinement:
        """Blend features ``x`` and their normal map ``f_n``, both ``(B, C, H, W)``, by their similarity."""
        similarity_map = similarity(
            features, normal, self.mse_threshold, self.indicator_weight, self.cosine_weight
        )  # S: (B, 1, H, W)
        return Refinement(refine(features, normal, similarity_map), similarity_map)

    def is_as_drawn(self) -> bool:
        """Tell whether all weights still have their random initial values: none was trained, loaded or set."""
        now = self._first_values()
        return self.drawn is not None and torch.equal(self.drawn.to(now), now)

    def _first_values(self) -> Tensor:
        return torch.cat([parameter.detach().flatten()[:1] for parameter in self.parameters()])

    def grid_parameters(self) -> list[nn.Parameter]:
        """Return the cells of both grids, which have their own learning rate."""
        return [self.local_representation.grid.cells, self.global_representation.grid.cells]

    def network_parameters(self) -> list[nn.Parameter]:
        """Return all other parameters."""
        grids = {id(parameter) for parameter in self.grid_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in grids]


def init_weights(module: nn.Module) -> None:
    """Initialise convolutions and linear layers from N(0, 0.01^2) with zero biases, as the authors do.

    Batch norms keep their weights of 1 and biases of 0.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
