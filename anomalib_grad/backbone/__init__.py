# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The frozen backbone: which network, which of its feature maps, whose weights."""

from .frozen import FrozenBackbone
from .layers import FeatureMap, default_layers, list_feature_maps, select_layers

__all__ = ["FeatureMap", "FrozenBackbone", "default_layers", "list_feature_maps", "select_layers"]
