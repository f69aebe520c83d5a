# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Feature cache: backbone features of the training images, computed once instead of in every epoch.

The backbone is frozen, so without augmentation its features never change. :class:`FeatureCaching` is the Lightning
callback that replaces the training images by the cache; the other files are its parts.
"""

from .callback import FeatureCaching
from .dataset import FeatureBatch, batches_of, features_of

__all__ = ["FeatureBatch", "FeatureCaching", "batches_of", "features_of"]
