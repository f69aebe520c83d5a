# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Read, set, fit and correct the thresholds of a model in a file.

Every change locks the file, so that no change by another process is lost.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from anomalib_grad.data.prediction import images_at
from anomalib_grad.files.atomic import explain_write_errors
from anomalib_grad.files.refusals import counted
from anomalib_grad.thresholds.error_rates import called_anomalous
from anomalib_grad.thresholds.labelled_scores import KnownImage
from anomalib_grad.thresholds.model_thresholds import ModelThresholds

from .model_files import ModelFile, open_model, score_images
from .verdicts import Verdicts

WAIT_SECONDS = 10.0
"""Longest time that a process waits for another that changes the same file."""


@dataclass(frozen=True)
class Correction:
    """Verdicts on an image, before and after its right verdict was given.

    Attributes:
        product: Product in the image; ``None`` in a model of one.
        image: The image.
        before: Whether it was called anomalous.
        after: Whether it is called anomalous now.
        against: Known images with the other label: any threshold that judges this one rightly judges them wrongly.
    """

    product: str | None
    image: KnownImage
    before: bool
    after: bool
    against: list[KnownImage]

    @property
    def was_wrong(self) -> bool:
        """Whether the verdict before was wrong."""
        return self.before != self.image.anomalous


@dataclass(frozen=True)
class Corrected:
    """Result of corrections.

    Attributes:
        thresholds: Threshold before and after, by product.
        corrections: Verdicts on each corrected image.
        changed: Other known images whose verdict changed, by product.
        written: Whether the file holds the new thresholds.
    """

    thresholds: dict[str | None, tuple[float, float]]
    corrections: list[Correction]
    changed: dict[str | None, list[KnownImage]]
    written: bool


def read_thresholds(path: str | Path) -> ModelThresholds:
    """Read the thresholds of a checkpoint or an export, with their records.

    Args:
        path: Checkpoint (.ckpt), OpenVINO (.xml), ONNX (.onnx) or torch export (.pt).

    Raises:
        FileNotFoundError: If there is no such file.
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
        path: As in :func:`read_thresholds`.
        product: Name of the product; ``"unknown"`` for images of no known product, ``None`` in a model of one.
        threshold: Score above which images are called anomalous, in the unit of the model's scores.
        sensitivity: In [0, 1]: 0.5 is the fitted threshold, 1 the lowest known score, 0 the highest.
        false_alarms: Share of normal images that may be called anomalous, in (0, 1), fitted on the known ones.

    Returns:
        The thresholds after the change.

    Raises:
        FileNotFoundError: As in :func:`read_thresholds`.
        ValueError: As there; also if not exactly one measure is given, it is out of range, or the product is unknown.
        CannotWriteError: If the folder cannot be written to; the file is then unchanged.
    """
    given = [value is not None for value in (threshold, sensitivity, false_alarms)]
    if sum(given) != 1:
        raise ValueError("Give exactly one of threshold, sensitivity and false_alarms.")
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
    """Fit the threshold of a product on images of the line, which the model in the file scores.

    Args:
        path: As in :func:`read_thresholds`.
        images: Normal images: a folder, or one file.
        product: As in :func:`set_threshold`.
        anomalous: Anomalous images; with them, and without ``false_alarms``, the threshold is that of best F1.
        false_alarms: Share of normal images that may be called anomalous, in (0, 1). Without anomalous images, ``None``
            takes the share promised before, or else the highest score of ``images``.
        progress: Show a progress bar.

    Returns:
        The thresholds after the change.

    Raises:
        FileNotFoundError: As in :func:`read_thresholds`; also if there are no images at a path.
        ValueError: As there; also if no image of a folder can be read, or the product is unknown.
        CannotWriteError: If the folder cannot be written to; the file is then unchanged.
    """
    with changing(path) as (model, thresholds):
        thresholds.row(product)
        files = [(image, False) for image in images_at(Path(images))]
        files += [(image, True) for image in (images_at(Path(anomalous)) if anomalous else [])]
        known = score_images(model, files, product, progress=progress)
        for folder, truth in ((images, False), (anomalous, True)):
            if folder and not any(image.anomalous == truth for image in known):
                raise ValueError(f"no image in {folder} can be read, so nothing was changed; give other images.")
        source = str(images) if anomalous is None else f"{images}, {anomalous}"
        thresholds.fit(product, known, source, false_alarms)
        model.write(thresholds)
    return thresholds


def correct(path: str | Path, verdicts: Verdicts, *, write: bool = True, progress: bool = False) -> Corrected:
    """Fit thresholds again, with images whose verdict someone checked, for products with wrong verdicts among them.

    Args:
        path: As in :func:`read_thresholds`.
        verdicts: Right verdicts (``verdicts.read_verdicts``).
        write: Whether to change the file; if not, the result is only reported.
        progress: Show a progress bar.

    Returns:
        Verdicts on the corrected images, and on other known images whose verdict changes.

    Raises:
        FileNotFoundError: As in :func:`read_thresholds`.
        ValueError: As there; also if no image can be read, a threshold has no record, or a product is unknown.
        CannotWriteError: If the folder cannot be written to; the file is then unchanged.
    """
    with changing(path) as (model, thresholds):
        for product in verdicts:
            thresholds.row(product)
        corrected = Corrected({}, [], {}, write)
        for product, files in verdicts.items():
            images = score_images(model, files, product, progress=progress)
            if not images:
                raise ValueError("none of the corrected images can be read, so nothing was changed; give other images.")
            _correct(thresholds, product, images, corrected)
        if write and any(one.was_wrong for one in corrected.corrections):
            model.write(thresholds)
    return corrected


def _correct(thresholds: ModelThresholds, product: str | None, images: list[KnownImage], corrected: Corrected) -> None:
    before = thresholds.threshold(product)
    wrong = [image for image in images if called_anomalous(image.score, before) != image.anomalous]
    alarms = sum(not image.anomalous for image in wrong)
    counts = {"false alarm": alarms, "missed image": len(wrong) - alarms}
    if wrong:
        corrected_by = " and ".join(counted(count, kind) for kind, count in counts.items() if count)
        thresholds.correct(product, images, f"corrected by {corrected_by}")
    after = thresholds.threshold(product)
    known = thresholds.images(product)
    corrected.thresholds[product] = (before, after)
    for image in images:
        then, now = called_anomalous(image.score, before), called_anomalous(image.score, after)
        # no threshold judges both these and the image rightly
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
    """Open a model to change its thresholds in the block, and lock it against other processes.

    Raises:
        ValueError: If another process holds the lock for longer than :data:`WAIT_SECONDS`.
    """
    model = open_model(path)
    lock = model.path.with_name(f".{model.path.name}.lock")
    with explain_write_errors(model.path):
        try:
            with FileLock(lock, timeout=WAIT_SECONDS, preserve_lock_file=True):  # the file is removed below
                try:
                    yield model, model.read()
                finally:
                    with suppress(PermissionError):  # Windows cannot remove an open file
                        lock.unlink(missing_ok=True)  # while held: a waiting process notices, and makes a new one
        except Timeout as error:
            raise ValueError(
                f"another process is changing the thresholds of {model.path}; wait until it ends and start again."
            ) from error
