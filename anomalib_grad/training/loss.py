# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What training lowers (method section 7)."""

import torch
from torch import Tensor
from torch.nn import functional


def training_loss(features: Tensor, refined: Tensor, *, hard_mining: bool = False) -> Tensor:
    """Compare features and their refinement, both ``(B, C, H, W)``: ``MSE(x_hat, x)``, the mean over all elements.

    With ``hard_mining``, which is not in the paper, the mean over cells is :func:`hard_mean`.
    """
    if hard_mining:
        return hard_mean((refined - features).square().mean(dim=1))
    return functional.mse_loss(refined, features)


def hard_mean(errors: Tensor) -> Tensor:
    """Mean of squared errors of any shape, each weighed by its root, so that easy cells, the most, do not rule it."""
    weights = errors.detach().sqrt()
    return (weights * errors).mean() / weights.mean().clamp(min=torch.finfo(errors.dtype).tiny)
