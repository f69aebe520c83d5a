# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the images of a dataset that cannot be read, by decoding every file once."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import pandas as pd
from anomalib.data import AnomalibDataset
from rich.progress import track

from .reading import AS_THEY_SAY, FileFormat, UnreadableImageError, check_image, read_mask

logger = logging.getLogger(__name__)

_MANY = 500
"""Files from which on a progress bar is shown."""


def leave_out_unreadable(datasets: Iterable[AnomalibDataset], file_format: FileFormat = AS_THEY_SAY) -> None:
    """Remove the images that cannot be read, or whose masks cannot, and list them in one log message.

    Nothing else is written. Files that did not change are decoded once in a process, however often this is called.

    Args:
        datasets: Any, changed in place; the same one may occur twice.
        file_format: What the files do not say.
    """
    distinct = {id(dataset): dataset for dataset in datasets}.values()
    listed = (file for dataset in distinct for files in files_by_image(dataset.samples) for file in files)
    faulty = list_faulty(listed, file_format)
    for dataset in distinct:
        readable = [row for row, files in enumerate(files_by_image(dataset.samples)) if faulty.isdisjoint(files)]
        if len(readable) < len(dataset):
            dataset.subsample(readable, inplace=True)


def list_faulty(files: Iterable[tuple[str, bool]], file_format: FileFormat = AS_THEY_SAY) -> set[tuple[str, bool]]:
    """Find the files that cannot be read, and list them in one log message.

    Args:
        files: Path of each, and whether it is a mask.
        file_format: What the files do not say.

    Returns:
        Those of them that cannot be read.
    """
    files = sorted(set(files))
    shown = len(files) >= _MANY
    with ThreadPoolExecutor() as readers:
        causes_in_turn = readers.map(partial(_check, file_format=file_format), files)
        checked = track(causes_in_turn, "Checking images", total=len(files), disable=not shown)
        causes = {file: cause for file, cause in zip(files, checked, strict=True) if cause is not None}
    if causes:
        listed = "\n".join(f"  {causes[file]}" for file in sorted(causes))
        logger.warning("left out, %d of %d files:\n%s", len(causes), len(files), listed)
    return set(causes)


def files_by_image(samples: pd.DataFrame) -> list[list[tuple[str, bool]]]:
    """For each image of anomalib's frame its files, and whether each is a mask."""
    masks = samples["mask_path"] if "mask_path" in samples else [""] * len(samples)
    return [
        [(str(image), False), *([(mask, True)] if isinstance(mask, str) and mask else [])]
        for image, mask in zip(samples["image_path"], masks, strict=True)
    ]


def _check(file: tuple[str, bool], file_format: FileFormat) -> str | None:
    """Say what is wrong with a file, if anything is."""
    path, is_mask = file
    try:
        status = Path(path).stat()
    except OSError as error:
        return f"could not read '{path}': {error}"
    return _checked(path, is_mask, file_format, status.st_size, status.st_mtime_ns)


@cache
def _checked(path: str, is_mask: bool, file_format: FileFormat, size: int, modified: int) -> str | None:
    """Decode a file; size and time of modification tell whether it is the one that was decoded before."""
    del size, modified
    try:
        (read_mask if is_mask else check_image)(path, file_format)
    except UnreadableImageError as error:
        return str(error)
    return None
