# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen backbone: the network, its selected feature maps and its weights."""

from .frozen import FrozenBackbone
from .layers import FeatureMap, default_layers, list_feature_maps, select_layers

__all__ = ["FeatureMap", "FrozenBackbone", "default_layers", "list_feature_maps", "select_layers"]
