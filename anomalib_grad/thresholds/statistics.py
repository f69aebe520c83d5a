# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Rows with one statistic per category, the pooled one last."""

import torch
from torch import Tensor


def first_known(categories: Tensor, pooled: Tensor) -> Tensor:
    """Rows of the categories (K,), then the pooled one, which also stands in where a category has none: (K + 1,)."""
    return torch.cat([torch.where(torch.isnan(categories), pooled, categories), pooled.reshape(1)])
