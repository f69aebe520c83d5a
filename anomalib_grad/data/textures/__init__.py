# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Generated textures: products with defects and masks, to try things out without any data."""

from .datamodule import Textures

__all__ = ["Textures"]
