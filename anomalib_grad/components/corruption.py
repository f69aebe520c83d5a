# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Feature corruption in training: pasted patches and channel dropout, which the head learns to undo; not in the paper.

Patches of other images replace the anomalies that training lacks (CutMix, arXiv 1905.04899, on features).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_PATCH = 2 / 7
"""Longest side of a patch, as a share of the feature map's side."""

OPAQUE_SHARE = 0.5
"""Share of the patches that replace what they cover; the others are blended with it."""


class Corruption(nn.Module):
    """Paste patches into features and drop channels; only for training.

    Args:
        pasted_patches: Largest number of patches of other images that cover parts of an image's features.
        channel_dropout: Share of the channels that are set to zero at random, in [0, 1).
    """

    def __init__(self, pasted_patches: int, channel_dropout: float) -> None:
        super().__init__()
        self.pasted_patches = pasted_patches
        self.channel_dropout = channel_dropout

    def forward(self, features: Tensor) -> Tensor:
        """Corrupt features ``(B, C, H, W)``; returns the same shape."""
        if self.pasted_patches:
            features = paste_patches(features, self.pasted_patches)
        return functional.dropout2d(features, self.channel_dropout) if self.channel_dropout else features


def paste_patches(features: Tensor, most: int) -> Tensor:
    """Cover rectangles of every image's features ``(B, C, H, W)`` by features of other images and places.

    All numbers of patches from 0 to ``most`` are equally likely. Random numbers are drawn on the CPU, whose state
    checkpoints store.
    """
    batch, _, height, width = features.shape
    counts = torch.randint(most + 1, (batch, 1, 1))
    pasted = features
    for patch in range(most):
        shifts = [int(torch.randint(side, ())) for side in (height, width)]
        donors = features[torch.randperm(batch).to(features.device)].roll(shifts, dims=(2, 3))
        inside = draw_spans(batch, height).unsqueeze(2) & draw_spans(batch, width).unsqueeze(1)  # (B, H, W)
        blend, opaque = torch.rand(2, batch, 1, 1)
        share = torch.where(opaque < OPAQUE_SHARE, 1.0, blend) * (inside & (patch < counts))  # (B, H, W)
        pasted = pasted.lerp(donors, share.unsqueeze(1).to(features))
    return pasted


def draw_spans(batch: int, side: int) -> Tensor:
    """Draw the rows (or columns) of ``side`` that a patch covers in each image, at least one: bool, ``(B, side)``."""
    length = torch.randint(1, max(round(LARGEST_PATCH * side), 1) + 1, (batch, 1))
    start = (torch.rand(batch, 1) * (side - length + 1)).floor()
    place = torch.arange(side)
    return (place >= start) & (place < start + length)
