# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Anomaly map and image score from a distance map (method: inference and evaluation).

Upsampling, smoothing and score pooling are linear and separable, so each is one small matrix applied along height and
width: ``A d B^T``. This is exact and costs a fraction of resizing followed by pooling with large windows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .components.head import cosine_similarity


def upsampling_matrix(size_in: int, size_out: int) -> Tensor:
    """Return the matrix ``(size_out, size_in)`` of linear upsampling with ``align_corners=True``."""
    position = torch.linspace(0, size_in - 1, size_out, dtype=torch.float64)
    return (1 - (position.unsqueeze(1) - torch.arange(size_in)).abs()).clamp(min=0)


def smoothing_matrix(size: int, window: int) -> Tensor:
    """Return the matrix ``(size, size)`` of stride-1 average pooling with an odd window; zero padding counts."""
    index = torch.arange(size)
    return ((index.unsqueeze(1) - index).abs() <= window // 2).double() / window


def pooling_matrix(size: int, window: int) -> Tensor:
    """Return the matrix ``(size - window + 1, size)`` of stride-1 average pooling without padding."""
    offset = torch.arange(size) - torch.arange(size - window + 1).unsqueeze(1)
    return ((offset >= 0) & (offset < window)).double() / window


def residual_norm(features: Tensor, refined: Tensor) -> Tensor:
    """Return the distance ``d = ||x - x_hat||_2`` over the channels of ``(B, C, H, W)`` maps: ``(B, 1, H, W)``."""
    return (features - refined).norm(dim=1, keepdim=True)


def apply_along_both(height: Tensor, width: Tensor, maps: Tensor) -> Tensor:
    """Apply matrices ``A`` ``(H, h)`` and ``B`` ``(W, w)`` to maps ``(B, 1, h, w)``: ``A M B^T``, as ``A (B M^T)^T``.

    With constants on the left only, OpenVINO keeps both products in float32 where it computes the network in bf16, and
    keeps the map in the layout for which it vectorises the next operations.
    """
    # The matrices are buffers: casting the whole model to float16 casts them as well.
    return height.to(maps.dtype) @ (width.to(maps.dtype) @ maps.transpose(-1, -2)).transpose(-1, -2)


def dissimilarity(similarity_map: Tensor) -> Tensor:
    """Return the distance ``1 - S`` from the similarity ``(B, 1, H, W)``: same shape, in [0, 2], unitless.

    It compares the direction of features and ignores their length: the residual norm is ``d = (1 - S) ||x - f_n||_2``,
    and this is its first factor.
    """
    return (1 - similarity_map).clamp(min=0)


def layer_dissimilarity(features: Tensor, normal: Tensor, channels: Sequence[int]) -> Tensor:
    """Return the distance ``sum_l C_l / C (1 - cos(x_l, f_n,l))`` of ``x`` and ``f_n``, over the backbone's layers.

    Both are ``(B, C, H, W)``, layers ``l`` concatenated along the channels, ``C_l`` each. The distance is
    ``(B, 1, H, W)``, in [0, 2], unitless. The layer with the longest features would dominate a single cosine over all.
    """
    layers = zip(features.split(list(channels), dim=1), normal.split(list(channels), dim=1), strict=True)
    parts = [own.shape[1] * dissimilarity(cosine_similarity(own, expected)) for own, expected in layers]
    return torch.stack(parts).sum(dim=0) / features.shape[1]


SCORE_STEP = 4
"""Stride in pixels at which ``score_share`` samples the map: in between, a smoothed map tells nothing new."""

LARGEST_DISTANCE = 2.0**15
"""Largest distance: far above any distance of real features, and half of what float16 can hold."""


def bounded(distance: Tensor) -> Tensor:
    """Replace NaN and values above :data:`LARGEST_DISTANCE` by that value.

    NaN exceeds no threshold, so an image that could not be scored would be called normal. Apply this after the
    matrices, although they spread one NaN over the whole image: before them, OpenVINO in bf16 would round its result.
    """
    return torch.where(distance <= LARGEST_DISTANCE, distance, LARGEST_DISTANCE)  # false for NaN


class AnomalyMapGenerator(nn.Module):
    """Smoothed anomaly map and image score from the distance map of the features.

    Args:
        feature_size: Height and width of the distance map.
        image_size: Height and width of the anomaly map, in pixels.
        smoothing_window: Side of the average pooling that smooths the map, odd. Authors: 21.
        score_window: Side of the average pooling whose maximum is the image score. Authors: 32. A smaller map is
            averaged as a whole.
        score_share: Share of the map's pixels, in (0, 1]: the image score is the mean of this share with the largest
            values, not the window's maximum. ``None`` keeps the window.

    Raises:
        ValueError: If a window is below 1, ``smoothing_window`` is even, or ``score_share`` is out of range.
    """

    def __init__(
        self,
        feature_size: tuple[int, int],
        image_size: tuple[int, int],
        smoothing_window: int = 21,
        score_window: int = 32,
        score_share: float | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        if smoothing_window < 1 or smoothing_window % 2 == 0:
            raise ValueError(f"smoothing_window must be a positive odd number, got {smoothing_window}.")
        if score_window < 1:
            raise ValueError(f"score_window must be at least 1, got {score_window}.")
        if score_share is not None and not 0 < score_share <= 1:
            raise ValueError(f"score_share must be more than 0 and at most 1, got {score_share}.")
        for axis, size_in, size_out in zip(("height", "width"), feature_size, image_size, strict=True):
            to_map = smoothing_matrix(size_out, smoothing_window) @ upsampling_matrix(size_in, size_out)
            if score_share is None:
                to_score = pooling_matrix(size_out, min(score_window, size_out)) @ to_map
            else:
                to_score = to_map[min(SCORE_STEP // 2, size_out - 1) :: SCORE_STEP]
            self.register_buffer(f"map_{axis}", to_map.float(), persistent=False)  # (size_out, size_in)
            self.register_buffer(f"score_{axis}", to_score.float(), persistent=False)
        self.score_count = None  # the score is the mean of this many largest values
        if score_share is not None:
            self.score_count = max(round(score_share * len(self.score_height) * len(self.score_width)), 1)
        self.map_height: Tensor
        self.map_width: Tensor
        self.score_height: Tensor
        self.score_width: Tensor

    def forward(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the distance ``(B, 1, h, w)`` into the anomaly map ``(B, 1, H, W)`` and the score ``(B,)``.

        Both have the unit of the distance and are non-negative and finite. Where the distance is NaN, they exceed any
        threshold. They are computed in float32 whatever the precision of the features.
        """
        if torch.is_autocast_enabled(distance.device.type):
            with torch.autocast(distance.device.type, enabled=False):
                return self(distance)
        distance = distance.float()
        anomaly_map = bounded(apply_along_both(self.map_height, self.map_width, distance))  # (B, 1, H, W)
        scores = bounded(apply_along_both(self.score_height, self.score_width, distance)).flatten(1)  # (B, N)
        if self.score_count is None:
            return anomaly_map, scores.amax(dim=1)
        return anomaly_map, scores.topk(self.score_count, dim=1).values.mean(dim=1)
