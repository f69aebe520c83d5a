# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Antialiased resizing that gives the same result in torch, ONNX and OpenVINO, and reads each image once."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import Compose, Resize, Transform

_ROWS_AT_A_TIME = 8


def resize_antialiased(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images or feature maps ``(B, C, H, W)`` of any size to ``(B, C, *size)``, bilinear with antialiasing.

    Exported graphs cannot use torch's own resize: ONNX stores it as a ``Resize``, which OpenVINO computes differently.
    """
    if not torch.compiler.is_exporting():
        precise = images.to(torch.promote_types(images.dtype, torch.float32))
        return functional.interpolate(precise, size, mode="bilinear", antialias=True).to(images.dtype)
    fewer_rows = reduce_rows(images, size[0])  # (B, C, size[0], W)
    # Transpose last: otherwise OpenVINO fuses the normalisation into the product and confuses its axes.
    return reduce_rows(fewer_rows.transpose(-1, -2), size[1]).transpose(-1, -2)


def reduce_rows(images: Tensor, rows: int) -> Tensor:
    """Resize the height of images ``(B, C, H, W)`` to ``rows``, a few rows at a time from the input rows they need.

    A product with the whole weight matrix, which is zero outside a narrow band, takes three times as long at 12
    megapixels.
    """
    group = math.gcd(rows, _ROWS_AT_A_TIME)
    height = images.shape[-2]
    indices, weights = triangles(height, rows, group, images)
    near = images.index_select(2, indices.clamp(max=height - 1).flatten()).unflatten(2, (rows // group, -1))
    return (weights @ near).flatten(2, 3)


def triangles(size_in: int, size_out: int, group: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Compute weights of antialiased linear resizing, equal to torch's and PIL's triangle filter, in bands.

    Positions are integers, exact in any precision. As fractions in OpenVINO's bf16, pixels beyond the 256th would share
    positions.

    Args:
        size_in: Length before, in pixels; may be symbolic during export.
        size_out: Length after, in pixels, a multiple of ``group``.
        group: Outputs M that share a band of K inputs.
        like: Tensor that gives dtype and device.

    Returns:
        Indices ``(G, K)`` of each band's inputs, which may exceed the last input, and weights ``(G, M, K)`` of the
        inputs for each of its outputs.
    """
    # Lengths are in units of 1 / (2 * size_out) pixels.
    reach = 2 * cast("int", torch.sym_max(size_in, size_out))  # half width of the triangle
    centre = ((2 * torch.arange(size_out, device=like.device) + 1) * size_in).unflatten(0, (-1, group))  # (G, M)
    first = (centre[:, :1] - reach).clamp(min=0) // (2 * size_out)
    length = ((group - 1) * size_in + reach) // size_out + 2
    indices = first + torch.arange(length, device=like.device)  # (G, K)
    pixel = ((2 * indices + 1) * size_out).unsqueeze(1)
    inside = (indices < size_in).unsqueeze(1)
    dtype = torch.promote_types(like.dtype, torch.float32)  # the sums below are too large for float16
    weights = ((reach - (pixel - centre.unsqueeze(2)).abs()).clamp(min=0) * inside).to(dtype)
    return indices, (weights / weights.sum(dim=2, keepdim=True)).to(like.dtype)


class AntialiasedResize(nn.Module):
    """Exportable resize of ``(B, C, H, W)`` images of any size to ``size`` pixels, bilinear with antialiasing."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return images of shape ``(B, C, *size)``."""
        return resize_antialiased(images, self.size)


def resized_to(transform: Transform | nn.Module | None) -> tuple[int, int] | None:
    """Return the height and width that ``transform`` resizes to first, bilinear with antialiasing; else ``None``.

    An image that already has that size passes through the resize unchanged.
    """
    if isinstance(transform, Compose):
        return resized_to(transform.transforms[0])
    if isinstance(transform, Resize) and transform.antialias:
        mode = InterpolationMode(transform.interpolation)  # a string in newer versions of torchvision
        match transform.size:
            case [height, width] if mode == InterpolationMode.BILINEAR:
                return height, width
    return None
