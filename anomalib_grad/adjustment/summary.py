# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Summary of corrections in sentences."""

from collections.abc import Iterable, Iterator

from anomalib_grad.files.refusals import counted, enumerated
from anomalib_grad.thresholds.error_rates import called_anomalous
from anomalib_grad.thresholds.labelled_scores import KnownImage

from .change import Corrected, Correction

NAMED = 10
"""Largest number of images that one sentence names."""


def in_words(corrected: Corrected) -> list[str]:
    """Say for each product how the threshold changed, which corrections it follows or cannot follow, and their cost."""
    lines: list[str] = []
    for product, (before, after) in corrected.thresholds.items():
        name = product or "all images"
        own = [one for one in corrected.corrections if one.product == product]
        if not any(one.was_wrong for one in own):
            right = f"it judges {counted(len(own), 'given image')} correctly"
            lines.append(f"{name}: the threshold stays at {before:.6g}; {right}.")
            continue
        verb = "is now" if corrected.written else "would be"
        moved = f"{verb} {after:.6g}; it was {before:.6g}" if before != after else f"stays at {before:.6g}"
        lines.append(f"{name}: the threshold {moved}.")
        lines += [f"  {line}" for line in _image_sentences(own)]
        changed = corrected.changed[product]
        for truth, called in ((False, "false alarm"), (True, "missed image")):
            of_kind = [one for one in changed if one.anomalous == truth]
            worse = [one for one in of_kind if called_anomalous(one.score, after) != truth]
            better = [one for one in of_kind if called_anomalous(one.score, after) == truth]
            if worse:
                lines.append(f"  cost: {counted(len(worse), f'more {called}')} among known images: {listed(worse)}")
            if better:
                lines.append(f"  gain: {counted(len(better), f'fewer {called}')} among known images: {listed(better)}")
        if not changed:
            lines.append("  cost: no other known image changes its verdict.")
    return lines


def _image_sentences(corrections: Iterable[Correction]) -> Iterator[str]:
    for one in corrections:
        truth = "anomalous" if one.image.anomalous else "normal"
        if one.after == one.image.anomalous:
            how = "was and is" if one.before == one.after else "is now"
            yield f"{one.image.name}: {how} called {truth}, as it should be (score {one.image.score:.6g})"
        elif one.against:
            other = "normal" if one.image.anomalous else "anomalous"
            yield (
                f"{one.image.name}: NO THRESHOLD CAN CORRECT THIS (score {one.image.score:.6g}); any that calls it "
                f"{truth} also misjudges {counted(len(one.against), f'{other} image')}: {listed(one.against)}"
            )
        else:
            side = "below" if one.image.anomalous else "of at least"
            yield (
                f"{one.image.name}: is still not called {truth}; a threshold {side} {one.image.score:.6g} would "
                "correct this (set --threshold)"
            )


def listed(images: list[KnownImage]) -> str:
    """Join the names of images, at most :data:`NAMED` of them."""
    return enumerated((image.name for image in images), NAMED)
