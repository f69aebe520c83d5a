# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""From the feature residual to the anomaly map and the image score (method: inference and evaluation).

Upsampling, smoothing and score pooling are linear and separable, so each is one small matrix applied along height and
width: ``A d A^T``. That is exact and costs a fraction of resizing followed by pooling with large windows.
"""

import torch
from torch import Tensor, nn


def upsampling_matrix(size_in: int, size_out: int) -> Tensor:
    """Matrix ``(size_out, size_in)`` of linear upsampling with ``align_corners=True``."""
    position = torch.linspace(0, size_in - 1, size_out, dtype=torch.float64)
    return (1 - (position.unsqueeze(1) - torch.arange(size_in)).abs()).clamp(min=0)


def smoothing_matrix(size: int, window: int) -> Tensor:
    """Matrix ``(size, size)`` of stride-1 average pooling whose zero padding counts in the mean; odd ``window``."""
    index = torch.arange(size)
    return ((index.unsqueeze(1) - index).abs() <= window // 2).double() / window


def pooling_matrix(size: int, window: int) -> Tensor:
    """Matrix ``(size - window + 1, size)`` of stride-1 average pooling without padding."""
    offset = torch.arange(size) - torch.arange(size - window + 1).unsqueeze(1)
    return ((offset >= 0) & (offset < window)).double() / window


def residual_norm(features: Tensor, refined: Tensor) -> Tensor:
    """Distance ``d = ||x - x_hat||_2`` over the channels of ``(B, C, H, W)`` maps; returns ``(B, 1, H, W)``."""
    return (features - refined).norm(dim=1, keepdim=True)


class AnomalyMapGenerator(nn.Module):
    """Smoothed anomaly map and image score from the residual norm.

    Args:
        feature_size: Height and width of the residual.
        image_size: Height and width of the anomaly map, in pixels.
        smoothing_window: Side of the average pooling that smooths the map, odd. Authors: 21.
        score_window: Side of the average pooling whose maximum is the image score. Authors: 32. On maps smaller
            than that the whole map is averaged.

    Raises:
        ValueError: If a window is below 1 or ``smoothing_window`` is even.
    """

    def __init__(
        self,
        feature_size: tuple[int, int],
        image_size: tuple[int, int],
        smoothing_window: int = 21,
        score_window: int = 32,
    ) -> None:
        super().__init__()
        if smoothing_window < 1 or smoothing_window % 2 == 0:
            raise ValueError(f"smoothing_window must be a positive odd number, got {smoothing_window}.")
        if score_window < 1:
            raise ValueError(f"score_window must be at least 1, got {score_window}.")
        for axis, size_in, size_out in zip(("height", "width"), feature_size, image_size, strict=True):
            to_map = smoothing_matrix(size_out, smoothing_window) @ upsampling_matrix(size_in, size_out)
            to_score = pooling_matrix(size_out, min(score_window, size_out)) @ to_map
            self.register_buffer(f"map_{axis}", to_map.float(), persistent=False)  # (size_out, size_in)
            self.register_buffer(f"score_{axis}", to_score.float(), persistent=False)
        self.map_height: Tensor
        self.map_width: Tensor
        self.score_height: Tensor
        self.score_width: Tensor

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the residual norm ``(B, 1, h, w)`` into the anomaly map ``(B, 1, H, W)`` and the score ``(B,)``.

        Both are in feature units, non-negative, without an upper bound. Computed in float32 whatever the precision
        of the features.
        """
        if torch.is_autocast_enabled(residual.device.type):
            with torch.autocast(residual.device.type, enabled=False):
                return self(residual)
        residual = residual.float()
        # The matrices lose their precision where a whole model is cast to float16.
        anomaly_map = self.map_height.float() @ residual @ self.map_width.float().T  # (B, 1, H, W)
        pooled = self.score_height.float() @ residual @ self.score_width.float().T
        return anomaly_map, pooled.amax(dim=(1, 2, 3))
