# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Read, set, fit and correct the thresholds of a model in a file.

Whoever changes a file locks it, so that no change of another process is lost.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from anomalib_grad.data.prediction import images_at
from anomalib_grad.files.atomic import explain_write_errors
from anomalib_grad.thresholds.error_rates import called_anomalous
from anomalib_grad.thresholds.labelled_scores import KnownImage
from anomalib_grad.thresholds.model_thresholds import ModelThresholds

from .model_files import ModelFile, open_model, score_images
from .verdicts import Verdicts

WAIT_SECONDS = 10.0
"""How long one process waits for another that changes the same file."""


@dataclass(frozen=True)
class Correction:
    """What became of an image whose right verdict was given.

    Attributes:
        product: What it shows; ``None`` in a model of one.
        image: The image.
        before: Whether it was called anomalous.
        after: Whether it is now.
        against: Known images of the other truth that any threshold which is right about this one is wrong about.
    """

    product: str | None
    image: KnownImage
    before: bool
    after: bool
    against: list[KnownImage]

    @property
    def was_wrong(self) -> bool:
        """Whether there was anything to correct."""
        return self.before != self.image.anomalous


@dataclass(frozen=True)
class Corrected:
    """What corrections did.

    Attributes:
        thresholds: Before and after, by product.
        corrections: What became of each image.
        changed: Other known images whose verdict changed, by product.
        written: Whether the file has the new thresholds.
    """

    thresholds: dict[str | None, tuple[float, float]]
    corrections: list[Correction]
    changed: dict[str | None, list[KnownImage]]
    written: bool


def read_thresholds(path: str | Path) -> ModelThresholds:
    """Read the thresholds of a checkpoint or an export, and what is known of them.

    Args:
        path: Checkpoint (.ckpt), OpenVINO (.xml), ONNX (.onnx) or torch export (.pt).

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is of another kind, damaged, changed by hand, or holds no such thresholds.
    """
    return open_model(path).read()


def set_threshold(
    path: str | Path,
    product: str | None = None,
    *,
    threshold: float | None = None,
    sensitivity: float | None = None,
    false_alarms: float | None = None,
) -> ModelThresholds:
    """Set the threshold of a product by one of three measures.

    Args:
        path: As of :func:`read_thresholds`.
        product: Its name; ``"unknown"`` for what is taken for none, ``None`` in a model of one.
        threshold: Score in the unit of the model's own, above which images are called anomalous.
        sensitivity: In [0, 1]: 0.5 is the fitted threshold, 1 the lowest known score, 0 the highest.
        false_alarms: Share of normal images that may be called anomalous, in (0, 1), by those that are known.

    Returns:
        The thresholds as they are now.

    Raises:
        FileNotFoundError: As of :func:`read_thresholds`.
        ValueError: As there; and if there is not one measure, it is out of range, or there is no such product.
        CannotWriteError: If the folder cannot be written to; the file is unchanged then.
    """
    given = [value is not None for value in (threshold, sensitivity, false_alarms)]
    if sum(given) != 1:
        raise ValueError("Give one of threshold, sensitivity and false_alarms.")
    with changing(path) as (model, thresholds):
        if threshold is not None:
            thresholds.set_threshold(product, threshold)
        elif sensitivity is not None:
            thresholds.set_sensitivity(product, sensitivity)
        elif false_alarms is not None:
            thresholds.set_false_alarms(product, false_alarms)
        model.write(thresholds)
    return thresholds


def fit(
    path: str | Path,
    images: str | Path,
    product: str | None = None,
    *,
    anomalous: str | Path | None = None,
    false_alarms: float | None = None,
    progress: bool = False,
) -> ModelThresholds:
    """Fit the threshold of a product on images of the line, as the model in the file scores them.

    Args:
        path: As of :func:`read_thresholds`.
        images: Normal images: a folder, or one file.
        product: As of :func:`set_threshold`.
        anomalous: Anomalous images; with them the threshold is that of best F1.
        false_alarms: Share of normal images that may be called anomalous, in (0, 1); ``None`` takes what was promised
            before, or else calls anomalous what exceeds all of ``images``.
        progress: Show a bar.

    Returns:
        The thresholds as they are now.

    Raises:
        FileNotFoundError: As of :func:`read_thresholds`, and if there are no images at a path.
        ValueError: As there; and if a folder holds no image that can be read, or there is no such product.
        CannotWriteError: If the folder cannot be written to; the file is unchanged then.
    """
    with changing(path) as (model, thresholds):
        thresholds.row(product)
        files = [(image, False) for image in images_at(Path(images))]
        files += [(image, True) for image in (images_at(Path(anomalous)) if anomalous else [])]
        known = score_images(model, files, product, progress=progress)
        for folder, truth in ((images, False), (anomalous, True)):
            if folder and not any(image.anomalous == truth for image in known):
                raise ValueError(f"no image in {folder} can be read, so nothing was changed; give others.")
        source = str(images) if anomalous is None else f"{images}, {anomalous}"
        thresholds.fit(product, known, source, false_alarms)
        model.write(thresholds)
    return thresholds


def correct(path: str | Path, verdicts: Verdicts, *, write: bool = True, progress: bool = False) -> Corrected:
    """Fit thresholds again with images in them that someone looked at, where some of a product were judged wrongly.

    Args:
        path: As of :func:`read_thresholds`.
        verdicts: Right verdicts (``verdicts.read_verdicts``).
        write: Whether to change the file; if not, only what would become of it is told.
        progress: Show a bar.

    Returns:
        What becomes of the corrections, and of other known images.

    Raises:
        FileNotFoundError: As of :func:`read_thresholds`.
        ValueError: As there; and if no image can be read, nothing is known of a threshold, or there is no such product.
        CannotWriteError: If the folder cannot be written to; the file is unchanged then.
    """
    with changing(path) as (model, thresholds):
        for product in verdicts:
            thresholds.row(product)
        corrected = Corrected({}, [], {}, write)
        for product, files in verdicts.items():
            images = score_images(model, files, product, progress=progress)
            if not images:
                raise ValueError("none of the corrected images can be read, so nothing was changed; give others.")
            _correct(thresholds, product, images, corrected)
        if write and any(one.was_wrong for one in corrected.corrections):
            model.write(thresholds)
    return corrected


def _correct(thresholds: ModelThresholds, product: str | None, images: list[KnownImage], corrected: Corrected) -> None:
    before = thresholds.threshold(product)
    wrong = [image for image in images if called_anomalous(image.score, before) != image.anomalous]
    alarms = sum(not image.anomalous for image in wrong)
    counts = {"false alarms": alarms, "missed images": len(wrong) - alarms}
    if wrong:
        corrected_by = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        thresholds.correct(product, images, f"corrected by {corrected_by}")
    after = thresholds.threshold(product)
    known = thresholds.images(product)
    corrected.thresholds[product] = (before, after)
    for image in images:
        then, now = called_anomalous(image.score, before), called_anomalous(image.score, after)
        # no threshold judges these rightly together with the image
        lower, higher = (image.score, math.inf) if image.anomalous else (-math.inf, image.score)
        against = [one for one in known if one.anomalous != image.anomalous and lower <= one.score <= higher]
        corrected.corrections.append(Correction(product, image, then, now, against))
    corrected.changed[product] = [
        image
        for image in known
        if image not in images and called_anomalous(image.score, before) != called_anomalous(image.score, after)
    ]


@contextmanager
def changing(path: str | Path) -> Iterator[tuple[ModelFile, ModelThresholds]]:
    """Open a model whose thresholds are changed in the block, by nobody else meanwhile.

    Raises:
        ValueError: If another process changes them for longer than :data:`WAIT_SECONDS`.
    """
    model = open_model(path)
    lock = model.path.with_name(f".{model.path.name}.lock")
    with explain_write_errors(model.path):
        try:
            with FileLock(lock, timeout=WAIT_SECONDS, preserve_lock_file=True):  # removed below, not twice
                try:
                    yield model, model.read()
                finally:
                    with suppress(PermissionError):  # Windows removes no open file
                        lock.unlink(missing_ok=True)  # while it is held: who waits sees that it is gone, and makes one
        except Timeout as error:
            raise ValueError(
                f"another process is changing the thresholds of {model.path}; wait until it has ended and start again."
            ) from error
