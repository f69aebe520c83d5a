# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Feature refinement (paper section 3.4): where the normal map is close to the input, the input is taken over."""

import torch
from torch import Tensor
from torch.nn import functional


def similarity(
    features: Tensor,
    normal: Tensor,
    mse_threshold: Tensor | float,
    indicator_weight: float = 0.3,
    cosine_weight: float = 0.7,
) -> Tensor:
    """Weigh how alike features and their normal map are: ``S = 0.3 * 1[mse <= k] + 0.7 * cos``.

    ``S`` is neither clamped nor detached: the gradient flows through the cosine, none through the indicator.

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
    """Cosine over the channels of two maps ``(B, C, H, W)``: ``(B, 1, H, W)``, 0 where one of them is 0."""
    eps = max(1e-8, torch.finfo(features.dtype).tiny)  # torch's 1e-8 is 0 in float16, where a zero vector gives nan
    return functional.cosine_similarity(features, normal, dim=1, eps=eps).unsqueeze(1)


def refine(features: Tensor, normal: Tensor, similarity_map: Tensor) -> Tensor:
    """Blend features and normal map: ``x_hat = S * x + (1 - S) * f_n``; all ``(B, C, H, W)``, S ``(B, 1, H, W)``."""
    return similarity_map * features + (1 - similarity_map) * normal
