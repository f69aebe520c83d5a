# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a model makes of images whose truth someone knows."""

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from anomalib_grad.data.reading import UnreadableImageError
from anomalib_grad.thresholds.known_images import KnownImage

from .models import ModelFile

logger = logging.getLogger(__name__)


def score_images(
    model: ModelFile, images: Sequence[tuple[Path, bool]], product: str | None, *, progress: bool = True
) -> list[KnownImage]:
    """Score images; those that cannot be read are named in a warning and left out.

    Args:
        model: The model.
        images: Files, and whether each is anomalous.
        product: What they show.
        progress: Show a bar.

    Returns:
        The images that can be read, in their order.
    """
    known, faults = [], []
    console = Console(stderr=True)
    for path, anomalous in track(images, f"Scoring {product or 'images'}", console=console, disable=not progress):
        try:
            score, peak = model.score(path, product)
        except UnreadableImageError as error:
            faults.append(f"  {error}")
            continue
        known.append(KnownImage.of(str(path), score, peak, anomalous=anomalous))
    if faults:
        logger.warning("left out, %d of %d images:\n%s", len(faults), len(images), "\n".join(faults))
    return known
