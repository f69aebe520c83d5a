# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which pixels of judged images do not count, for models of any kind."""

from typing import Any

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule
from torch import Tensor

from anomalib_grad.data.ignore_masks import ignore_masks, kept_pixels


class IgnoreMasks:
    """Looks up what is ignored in the images of a batch."""

    def __init__(self, datamodule: Any = None) -> None:  # noqa: ANN401  # anomalib's, of any class, or none
        self._datamodule = datamodule
        self._kept: dict[tuple[str, tuple[int, int]], Tensor] = {}

    def pixels(self, model: LightningModule, batch: ImageBatch) -> Tensor | None:
        """Find the pixels that are ignored: those that the model left out, or else those that the data's masks name.

        Args:
            model: The model; one that ignores by itself has a method ``ignored_pixels``.
            batch: Judged images that name their categories.

        Returns:
            bool, shape (B, H, W) as the images' maps or masks; ``None`` where nothing is ignored.
        """
        own = getattr(model, "ignored_pixels", None)
        if own is not None:
            found = own(batch)
            return None if found is None else found.expand(len(batch), -1, -1)
        shown = batch.gt_mask if batch.anomaly_map is None else batch.anomaly_map
        masks = ignore_masks(self._datamodule)
        if shown is None or masks.keys().isdisjoint(batch.category):  # type: ignore[attr-defined]
            return None
        size = (shown.shape[-2], shown.shape[-1])
        kept = [self._of(name, size, masks) for name in batch.category]  # type: ignore[attr-defined]
        return ~torch.stack(kept).to(shown.device)

    def _of(self, name: str, size: tuple[int, int], masks: dict[str, Any]) -> Tensor:
        """Pixels (H, W) that are judged in images of a category."""
        if (name, size) not in self._kept:
            mask = masks.get(name)
            self._kept[name, size] = torch.ones(size, dtype=torch.bool) if mask is None else kept_pixels(mask, size)
        return self._kept[name, size]
