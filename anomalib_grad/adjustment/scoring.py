# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a model makes of images whose truth someone knows."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from anomalib_grad.data.read_or_refuse import UnreadableImageError
from anomalib_grad.thresholds.labelled_scores import KnownImage

from .models import ModelFile

logger = logging.getLogger(__name__)


def score_images(
    model: ModelFile, images: Sequence[tuple[Path, bool]], product: str | None, *, progress: bool = True
) -> list[KnownImage]:
    """Score images; those that cannot be read are named in a warning and left out.

    Another says how many the model takes for another product.

    Args:
        model: The model.
        images: Files, and whether each is anomalous.
        product: What they show.
        progress: Show a bar.

    Returns:
        The images that can be read, in their order.
    """
    known, faults = [], []
    others: Counter[str] = Counter()
    console = Console(stderr=True)
    for path, anomalous in track(images, f"Scoring {product or 'images'}", console=console, disable=not progress):
        try:
            found = model.score(path, product)
        except UnreadableImageError as error:
            faults.append(f"  {error}")
            continue
        known.append(KnownImage.of(str(path), found.score, found.peak, anomalous=anomalous))
        if found.recognised not in {None, product}:
            others[str(found.recognised)] += 1
    if faults:
        logger.warning("left out, %d of %d images:\n%s", len(faults), len(images), "\n".join(faults))
    if others:
        logger.warning(
            "%d of %d images are taken for %s, not for %s, whose threshold has no effect on them where the model "
            "recognises products by itself, as in anomalib's inferencers: name the product where they are judged "
            "(category=%r), or fit those products as well.",
            others.total(), len(known), ", ".join(f"{name} ({count})" for name, count in others.most_common()),
            product, product,
        )  # fmt: skip
    return known
