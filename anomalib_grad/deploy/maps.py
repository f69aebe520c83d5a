# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Anomaly maps and masks at the size of the image that they are of: models give them at their own."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from anomalib.data import NumpyImageBatch
from torch.nn import functional

from anomalib_grad.data.reading import opened

T = TypeVar("T", bound=np.ndarray | None)


def at_size(prediction: NumpyImageBatch, size: tuple[int, int] | str | Path) -> NumpyImageBatch:
    """Bring anomaly maps and masks of a prediction to another size.

    Args:
        prediction: Of an inferencer: maps ``(B, h, w)`` float, masks ``(B, h, w)`` bool, either may be missing.
        size: Height and width, or the file of the image.

    Returns:
        The same prediction with maps ``(B, H, W)``, bilinear in between, and masks ``(B, H, W)``, of the nearest pixel.

    Raises:
        UnreadableImageError: If the file cannot be read; names it.
    """
    if isinstance(size, str | Path):
        with opened(size) as image:
            size = image.height, image.width
    resized: NumpyImageBatch = prediction.update(
        in_place=False,
        anomaly_map=_resized(prediction.anomaly_map, size, "bilinear"),
        pred_mask=_resized(prediction.pred_mask, size, "nearest-exact"),
    )
    return resized


def _resized(values: T, size: tuple[int, int], mode: str) -> T:
    if values is None:
        return values
    batch = torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, *values.shape[-2:])  # (B, 1, h, w)
    return functional.interpolate(batch, size=size, mode=mode)[:, 0].numpy().astype(values.dtype)  # type: ignore[return-value]
