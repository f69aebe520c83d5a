# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Anomaly maps and masks at the size of the image that they are of: models give them at their own."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from anomalib.data import NumpyImageBatch
from torch.nn import functional

from anomalib_grad.data.read_or_refuse import open_image

from .frames import Frame, size_of

T = TypeVar("T", bound=np.ndarray | None)


def at_size(prediction: NumpyImageBatch, size: tuple[int, int] | Frame) -> NumpyImageBatch:
    """Bring anomaly maps and masks of a prediction to another size.

    Args:
        prediction: Of an inferencer: maps ``(B, h, w)`` float, masks ``(B, h, w)`` bool, either may be missing. Each
            may have a channel, before or behind: anomalib moves that of masks to the end.
        size: Height and width, or the image itself: whatever the inferencer takes.

    Returns:
        The same prediction with maps ``(B, H, W)``, bilinear in between, and masks ``(B, H, W)``, of the nearest pixel.

    Raises:
        UnreadableImageError: If the file cannot be read; names it.
        ValueError: If an array or a tensor is no image.
    """
    if isinstance(size, str | Path):
        with open_image(size) as image:
            size = size_of(image)
    elif not isinstance(size, tuple):
        size = size_of(size)
    resized: NumpyImageBatch = prediction.update(
        in_place=False,
        anomaly_map=_resized(prediction.anomaly_map, size, "bilinear"),
        pred_mask=_resized(prediction.pred_mask, size, "nearest-exact"),
    )
    return resized


def _resized(values: T, size: tuple[int, int], mode: str) -> T:
    if values is None:
        return values
    small = values.shape[1:3] if values.shape[-1] == 1 else values.shape[-2:]  # (B, h, w, 1), (B, h, w) or (B, 1, h, w)
    batch = torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, *small)
    return functional.interpolate(batch, size=size, mode=mode)[:, 0].numpy().astype(values.dtype)  # type: ignore[return-value]
