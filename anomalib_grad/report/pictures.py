# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Images for people to look at, with the pixels that the model has seen."""

import numpy as np
from PIL import Image

from anomalib_grad.data.pixels import read_wrongly_by_anomalib, rgb_pixels


def picture_of(file: Image.Image) -> Image.Image:
    """Give an opened image as RGB of 8 bits; Pillow's own conversion cuts 16 bits off at 255, which is white."""
    if read_wrongly_by_anomalib(file):
        return Image.fromarray((255 * rgb_pixels(file)).round().astype(np.uint8))
    return file.convert("RGB")
