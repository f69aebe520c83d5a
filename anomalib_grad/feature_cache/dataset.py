# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Data set and data loader of cached features, which replace the training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from anomalib_grad.backbone import FrozenBackbone
from anomalib_grad.data.training_loader import sampling_arguments

if TYPE_CHECKING:
    from anomalib.data import Batch


@dataclass
class FeatureBatch:
    """A training batch of cached features.

    Attributes:
        features: The backbone's maps of B images, flattened to a row per image: ``(B, F)``, float32 or float16.
        category: Name of each image's category, if the data have categories.
        image, gt_mask: Always ``None``, which anomalib's pre-processors pass through.
    """

    features: Tensor
    category: list[str] | None = None
    image: None = None
    gt_mask: None = None


def features_of(batch: "Batch | FeatureBatch", backbone: FrozenBackbone) -> Tensor:
    """Return the features ``(B, C, h, w)`` of a training batch, computed or cached, on the backbone's device."""
    if not isinstance(batch, FeatureBatch):
        return backbone(batch.image)
    device = next(backbone.network.parameters()).device
    return backbone.join(backbone.unflatten(batch.features.to(device, torch.get_default_dtype())))


class CachedFeatures(Dataset[FeatureBatch]):
    """Data set of feature rows, which returns whole batches.

    Args:
        rows: Features ``(N, F)`` of N images, in memory or mapped from a file.
        samples: anomalib's data frame of the same N images.
    """

    def __init__(self, rows: np.ndarray, samples: pd.DataFrame) -> None:
        self.rows = rows
        self.samples = samples
        self._categories = list(samples["category"]) if "category" in samples else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> FeatureBatch:
        names = None if self._categories is None else [self._categories[index] for index in indices]
        return FeatureBatch(torch.from_numpy(np.asarray(self.rows[list(indices)])), names)


def cached_loader(loader: DataLoader, features: CachedFeatures) -> DataLoader:
    """Build a loader that samples ``features`` as ``loader`` samples its images, without worker processes.

    It consumes the same random numbers, so runs with and without the cache shuffle alike.
    """
    return DataLoader(
        features,
        collate_fn=lambda batch: batch,  # the data set returns batches
        generator=loader.generator,
        pin_memory=loader.pin_memory,
        **sampling_arguments(loader),
    )


def batches_of(loader: DataLoader, indices: Sequence[int]) -> DataLoader:
    """Build a loader of some images of another loader's data set, in the order of ``indices``.

    It reads images as the other one does, without advancing its sampler.
    """
    batch_size = loader.batch_size or 1
    return DataLoader(
        Subset(loader.dataset, indices),
        batch_size=batch_size,
        collate_fn=loader.collate_fn,
        num_workers=min(loader.num_workers, len(indices) // batch_size),
    )
