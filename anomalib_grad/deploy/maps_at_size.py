# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Resizing of anomaly maps and masks from the model's size to that of the image."""

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
    """Resize the anomaly maps and masks of a prediction.

    Args:
        prediction: Prediction of an inferencer: float maps ``(B, h, w)``, bool masks ``(B, h, w)``; either may be
            missing. Each may have a channel, first or last: anomalib moves that of masks to the end.
        size: Height and width, or the image itself: any input of the inferencer.

    Returns:
        The prediction with maps ``(B, H, W)``, interpolated bilinearly, and masks ``(B, H, W)``, by nearest neighbour.

    Raises:
        UnreadableImageError: If the file cannot be read.
        ValueError: If an array or a tensor does not have the shape of an image.
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
