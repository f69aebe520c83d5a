# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The threshold ``k`` of the similarity's indicator, on the scale of the backbone's features (method section 6).

The authors' ``k = 10`` is of the order of the mean square of EfficientNet-B4's features. Other backbones' features are
up to twenty times smaller or larger: with the same ``k``, the indicator would be constant.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from anomalib_grad.backbone.frozen import is_faithful

AUTHORS_MSE_THRESHOLD = 10.0
AUTO_SHARE = 0.6
"""Share of the features' mean square that ``"auto"`` uses as ``k``.

The choice hardly matters: on four real products in one model, six epochs, shares of 0.3, 0.6 and 1.2 gave a mean image
AUROC of 93.3, 93.9 and 94.2. Seeds differ by about 0.5 (``tests/benchmarks/mse_threshold_share.py``).
"""
AUTO_IMAGES = 256
"""Training images that suffice for the estimate."""


def resolve_mse_threshold(mse_threshold: float | str | None, backbone: str) -> float:
    """Convert the user's ``mse_threshold`` to a number, NaN if it is to be estimated from training features.

    Args:
        mse_threshold: A positive number, ``"auto"``, or ``None`` for 10.0 with the authors' backbone and ``"auto"``
            with any other.
        backbone: timm model name.

    Raises:
        ValueError: If it is anything else, or not positive and finite.
    """
    if mse_threshold is None:
        mse_threshold = AUTHORS_MSE_THRESHOLD if is_faithful(backbone) else "auto"
    if mse_threshold == "auto":
        return float("nan")
    if isinstance(mse_threshold, str) or not 0 < mse_threshold < math.inf:
        raise ValueError(f"mse_threshold must be a positive, finite number or 'auto', got {mse_threshold!r}.")
    return float(mse_threshold)


@torch.no_grad()
def estimate_mse_threshold(features: Iterable[Tensor], share: float = AUTO_SHARE) -> Tensor:
    """Estimate ``k`` as a share of the mean square of training features.

    Args:
        features: Batches of features ``(B, C, H, W)``.
        share: Share of the mean square.

    Returns:
        ``k`` in squared feature units, shape ``()``.

    Raises:
        ValueError: If there are no images.
    """
    squares = [batch.float().square().mean(dim=(1, 2, 3)) for batch in features]  # (B,) each
    if not squares:
        raise ValueError("mse_threshold='auto' needs training images, but there are none: add some, or give a number.")
    return share * torch.cat(squares).mean()
