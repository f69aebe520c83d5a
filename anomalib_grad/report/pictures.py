# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Images for people to look at, with the pixels that the model has seen."""

from typing import Any

import numpy as np
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from PIL import Image

from anomalib_grad.data.pixels import read_wrongly_by_anomalib, rgb_pixels
from anomalib_grad.data.reading import AS_THEY_SAY, FileFormat


def picture_of(file: Image.Image, bits: int = AS_THEY_SAY.bits) -> Image.Image:
    """Give an opened image as RGB of 8 bits; Pillow's own conversion cuts 16 bits off at 255, which is white."""
    if read_wrongly_by_anomalib(file):
        return Image.fromarray((255 * rgb_pixels(file, bits=bits)).round().astype(np.uint8))
    return file.convert("RGB")


def file_format_of(loaders: Any) -> FileFormat:  # noqa: ANN401  # whatever Lightning was given
    """What the data sets behind a run's loaders say of their files."""
    datasets = (getattr(loader, "dataset", None) for loader in CombinedLoader(loaders).flattened)
    return next(filter(None, (getattr(dataset, "file_format", None) for dataset in datasets)), AS_THEY_SAY)
