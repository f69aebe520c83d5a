# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The images and masks of a data set that cannot be read, found by decoding every file once, and left out or named."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from anomalib.data import AnomalibDataset
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from rich.progress import track

from .read_or_refuse import FileFormat, UnreadableImageError, check_image, read_mask

logger = logging.getLogger(__name__)

File: TypeAlias = tuple[str, bool]
"""Path of a file, and whether it is a mask."""
_MANY = 500
"""Files from which on a progress bar is shown."""


def leave_out_unreadable(datasets: Iterable[AnomalibDataset], file_format: FileFormat) -> None:
    """Remove the images that cannot be read, or whose masks cannot, and list them in one log message.

    Data sets are changed in place; the same one may occur twice. Nothing else is written. Files that did not change are
    decoded once in a process, however often this is called.
    """
    distinct = {id(dataset): dataset for dataset in datasets}.values()
    faulty = list_faulty(chain.from_iterable(map(files_of, distinct)), file_format)
    for dataset in distinct:
        readable = [row for row, files in enumerate(files_by_image(dataset.samples)) if faulty.isdisjoint(files)]
        if len(readable) < len(dataset):
            dataset.subsample(readable, inplace=True)


def list_faulty(files: Iterable[File], file_format: FileFormat) -> set[File]:
    """Find the files that cannot be read, and list them in one log message; the format is what they do not say."""
    files = set(files)
    causes = find_unreadable(files, file_format)
    if causes:
        listed = "\n".join(f"  {cause}" for cause in causes.values())
        logger.warning("left out, %d of %d files:\n%s", len(causes), len(files), listed)
    return set(causes)


def find_unreadable(files: Iterable[File], file_format: FileFormat) -> dict[File, str]:
    """Decode files and say what is wrong with each that cannot be read, in the order of their paths."""
    files = sorted(set(files))
    with ThreadPoolExecutor() as readers:
        faults = readers.map(partial(_fault, file_format=file_format), files)
        causes = track(faults, "Checking images", total=len(files), disable=len(files) < _MANY)
        return {file: cause for file, cause in zip(files, causes, strict=True) if cause is not None}


def datasets_of(loaders: Any) -> list[Any]:  # noqa: ANN401  # whatever Lightning was given
    """List the data sets behind a run's loaders."""
    found = (getattr(loader, "dataset", None) for loader in CombinedLoader(loaders).flattened)
    return [dataset for dataset in found if dataset is not None]


def files_of(dataset: object) -> Iterator[File]:
    """List the files of a data set of any kind."""
    samples = getattr(dataset, "samples", None)
    if samples is not None:
        yield from chain.from_iterable(files_by_image(samples))
    yield from ((str(path), False) for path in getattr(dataset, "image_filenames", []))


def files_by_image(samples: pd.DataFrame) -> list[list[File]]:
    """For each image of anomalib's frame its files."""
    masks = samples["mask_path"] if "mask_path" in samples else [""] * len(samples)
    return [
        [(str(image), False), *([(mask, True)] if isinstance(mask, str) and mask else [])]
        for image, mask in zip(samples["image_path"], masks, strict=True)
    ]


def _fault(file: File, file_format: FileFormat) -> str | None:
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
