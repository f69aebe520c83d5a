# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Backbone features of the training images, computed once instead of in every epoch.

The backbone is frozen, so that without augmentation its features never change. :class:`FeatureCaching` is the Lightning
callback that puts the cache in place of the training images; the other files are what it is made of.
"""

from .callback import FeatureCaching
from .dataset import FeatureBatch, batches_of, features_of
from .filling import FeatureSource

__all__ = ["FeatureBatch", "FeatureCaching", "FeatureSource", "batches_of", "features_of"]
