# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Feature whitening: all directions in which normal features vary get the same weight.

The residual of raw features is dominated by the few channels of high variance, which separate an object from its
background. Defects show in the channels of low variance.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

SHRINKAGE = 0.05
"""Share of the mean variance that is added to the variance in every direction, so that directions of almost no variance
are not amplified. Shares from 0.01 to 0.5 differ by less than a point of image AUROC (``examples/study``)."""


class Whitening(nn.Module):
    """Map features linearly so that over normal images they have mean 0, variance 1 and no correlation (ZCA).

    Args:
        channels: Channels C of the features.

    Attributes:
        matrix: ``W``, shape (C, C); the identity before :meth:`fit`.
        bias: ``-W mean``, shape (C,).
        images: Number of images used by :meth:`fit`, int64, shape (); 0 before.
    """

    matrix: Tensor
    bias: Tensor
    images: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("images", torch.tensor(0))

    @torch.no_grad()
    def fit(self, features: Iterable[Tensor]) -> None:
        """Estimate mean and covariance from batches ``(B, C, H, W)`` of normal features.

        Raises:
            ValueError: If there are no images.
        """
        images, cells = 0, 0
        first = torch.zeros(self.bias.shape, dtype=torch.float64)  # (C,), on the CPU: Apple's GPUs lack float64
        second = torch.zeros(self.matrix.shape, dtype=torch.float64)  # (C, C)
        for batch in features:
            rows = batch.transpose(0, 1).flatten(1).cpu().double()  # (C, n)
            images, cells = images + len(batch), cells + rows.shape[1]
            first += rows.sum(dim=1)
            second += rows @ rows.T
        if not images:
            raise ValueError("whitening is fitted to training images, but there are none; add some.")
        mean = first / cells
        matrix = whitening_matrix(second / cells - mean.outer(mean))
        self.matrix.copy_(matrix)
        self.bias.copy_(-matrix @ mean)
        self.images.fill_(images)

    def forward(self, features: Tensor) -> Tensor:
        """Whiten features ``(B, C, H, W)`` to the same shape, in float32 even under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return functional.conv2d(features.to(self.matrix.dtype), self.matrix[:, :, None, None], self.bias)


def whitening_matrix(covariance: Tensor) -> Tensor:
    """Compute the symmetric ``W`` with ``W covariance W = 1``, up to shrinkage; all ``(C, C)``.

    If nothing varies at all, ``W`` is the identity.
    """
    variances, directions = torch.linalg.eigh(covariance)  # (C,), (C, C)
    mean = variances.mean()
    if not mean > 0:
        return torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return directions @ torch.diag((variances + SHRINKAGE * mean).rsqrt()) @ directions.T
