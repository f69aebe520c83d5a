# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pooled training features with their categories, collected during the first epoch to fit the recogniser."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .distributed import all_gather


class CategoryFeatures:
    """Collects pooled features batch by batch and gathers them over all processes."""

    def __init__(self) -> None:
        self._features: list[Tensor] = []
        self._names: list[str] = []

    def add(self, features: Tensor, names: Sequence[str]) -> None:
        """Take in pooled features ``(B, C)`` and the category name of each image."""
        self._features.append(features.detach().float())
        self._names.extend(names)

    def clear(self) -> None:
        """Forget everything."""
        self._features, self._names = [], []

    def gather(self) -> tuple[Tensor, list[str]]:
        """Give all features ``(N, C)`` on the CPU and their N names, the same in every process."""
        features = torch.cat(self._features).cpu() if self._features else torch.empty(0, 0)
        parts = all_gather((features, self._names))
        filled = [part for part, _ in parts if len(part)]
        return torch.cat(filled) if filled else features, [name for _, names in parts for name in names]
