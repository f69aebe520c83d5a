# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Training loss: MSE over features, optionally weighted towards hard cells (method section 7)."""

import torch
from torch import Tensor
from torch.nn import functional


def training_loss(features: Tensor, refined: Tensor, *, hard_mining: bool = False) -> Tensor:
    """Return ``MSE(x_hat, x)`` of features and their refinement, both ``(B, C, H, W)``: the mean over all elements.

    With ``hard_mining``, which is not in the paper, the mean over cells is :func:`hard_mean`.
    """
    if hard_mining:
        return hard_mean((refined - features).square().mean(dim=1))
    return functional.mse_loss(refined, features)


def hard_mean(errors: Tensor) -> Tensor:
    """Return the mean of squared errors of any shape, weighted by their roots to emphasise the few hard cells."""
    weights = errors.detach().sqrt()
    return (weights * errors).mean() / weights.mean().clamp(min=torch.finfo(errors.dtype).tiny)
