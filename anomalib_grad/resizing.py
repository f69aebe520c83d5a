# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Antialiased resizing as two products with small matrices, which torch, ONNX and OpenVINO compute alike."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import Compose, Resize, Transform


def antialiasing_matrix(size_in: int, size_out: int, like: Tensor) -> Tensor:
    """Matrix ``(size_out, size_in)`` of antialiased linear resizing, equal to torch's and PIL's triangle filter.

    Positions are whole numbers, exact in any precision: where OpenVINO computes in bf16, pixels beyond the 256th would
    share theirs.

    Args:
        size_in: Length before, in pixels; may be symbolic during export.
        size_out: Length after, in pixels.
        like: Tensor that gives dtype and device.
    """
    # Lengths are in units of 1 / (2 * size_out) pixels.
    reach = 2 * cast("int", torch.sym_max(size_in, size_out))  # of the triangle
    centre = (2 * torch.arange(size_out, device=like.device) + 1) * size_in
    pixel = (2 * torch.arange(size_in, device=like.device) + 1) * size_out
    dtype = torch.promote_types(like.dtype, torch.float32)  # the sums below are too large for float16
    weights = functional.relu(reach - (pixel - centre.unsqueeze(1)).abs()).to(dtype)
    return (weights / weights.sum(dim=1, keepdim=True)).to(like.dtype)


def resize_antialiased(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images or feature maps ``(B, C, H, W)`` of any size to ``(B, C, *size)``, bilinear with antialiasing."""
    height, width = images.shape[-2:]
    rows = antialiasing_matrix(height, size[0], images)  # (size[0], H)
    columns = antialiasing_matrix(width, size[1], images)  # (size[1], W)
    # A transposition comes last: OpenVINO would fuse the normalisation into the product and mistake its axes.
    return (columns @ (rows @ images).transpose(-1, -2)).transpose(-1, -2)


class AntialiasedResize(nn.Module):
    """Resize ``(B, C, H, W)`` images of any size to ``size`` pixels, bilinear with antialiasing, exportable."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return images of shape ``(B, C, *size)``."""
        return resize_antialiased(images, self.size)


def resized_to(transform: Transform | nn.Module | None) -> tuple[int, int] | None:
    """Height and width to which ``transform`` resizes first, bilinear with antialiasing; ``None`` if it does not.

    An image that was resized to them before passes through that step as it is.
    """
    if isinstance(transform, Compose):
        return resized_to(transform.transforms[0])
    if isinstance(transform, Resize) and transform.antialias:
        mode = InterpolationMode(transform.interpolation)  # a string in newer versions of torchvision
        match transform.size:
            case [height, width] if mode == InterpolationMode.BILINEAR:
                return height, width
    return None
