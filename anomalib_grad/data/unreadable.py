# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Unreadable images and masks, also those that only anomalib misreads: find, leave out, refuse, or name in errors.

The image library often says what is wrong but not in which file, and anomalib clips values above 255.
"""

import logging
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakSet

import lightning.pytorch as pl
import pandas as pd
from anomalib.data import AnomalibDataset, PredictDataset
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from PIL import Image
from rich.progress import track

from anomalib_grad.files.refusals import enumerated, reword

from .pixels import read_wrongly_by_anomalib
from .read_or_refuse import DEFAULT_FORMAT, FileFormat, UnreadableImageError, check_image, read_mask, refuse_pipes

logger = logging.getLogger(__name__)

File: TypeAlias = tuple[str, bool]
"""Path of a file, and whether it is a mask."""
_MANY = 500
"""Number of files from which a progress bar is shown."""


def leave_out_unreadable(datasets: Iterable[AnomalibDataset], file_format: FileFormat) -> None:
    """Remove unreadable images, and images with unreadable masks, and list them in one log message.

    Datasets are changed in place, and may occur twice; nothing else is written. Each process decodes unchanged files
    only once, however often this is called.
    """
    distinct = {id(dataset): dataset for dataset in datasets}.values()
    faulty = list_faulty(chain.from_iterable(map(files_of, distinct)), file_format)
    for dataset in distinct:
        readable = [row for row, files in enumerate(files_by_image(dataset.samples)) if faulty.isdisjoint(files)]
        if len(readable) < len(dataset):
            dataset.subsample(readable, inplace=True)


def list_faulty(files: Iterable[File], file_format: FileFormat) -> set[File]:
    """Return the unreadable files, and list them in one log message."""
    files = set(files)
    causes = find_unreadable(files, file_format)
    if causes:
        listed = "\n".join(f"  {cause}" for cause in causes.values())
        logger.warning("left out %d of %d files:\n%s", len(causes), len(files), listed)
    return set(causes)


def find_unreadable(files: Iterable[File], file_format: FileFormat) -> dict[File, str]:
    """Decode files and say what is wrong with each unreadable one, in the order of their paths."""
    files = sorted(set(files))
    with ThreadPoolExecutor() as readers:
        faults = readers.map(partial(_fault, file_format=file_format), files)
        causes = track(faults, "Checking images", total=len(files), disable=len(files) < _MANY)
        return {file: cause for file, cause in zip(files, causes, strict=True) if cause is not None}


def datasets_of(loaders: Any) -> list[Any]:  # noqa: ANN401  # whatever Lightning was given
    """Return the datasets behind a run's loaders."""
    found = (getattr(loader, "dataset", None) for loader in CombinedLoader(loaders).flattened)
    return [dataset for dataset in found if dataset is not None]


def files_of(dataset: object) -> Iterator[File]:
    """Yield the files of a dataset of any kind."""
    samples = getattr(dataset, "samples", None)
    if samples is not None:
        yield from chain.from_iterable(files_by_image(samples))
    yield from ((str(path), False) for path in getattr(dataset, "image_filenames", []))


def files_by_image(samples: pd.DataFrame) -> list[list[File]]:
    """Return the files of each image in anomalib's frame of samples."""
    masks = samples["mask_path"] if "mask_path" in samples else [""] * len(samples)
    return [
        [(str(image), False), *([(mask, True)] if isinstance(mask, str) and mask else [])]
        for image, mask in zip(samples["image_path"], masks, strict=True)
    ]


def _fault(file: File, file_format: FileFormat) -> str | None:
    """Return what is wrong with a file, or ``None``."""
    path, is_mask = file
    try:
        status = Path(path).stat()
    except OSError as error:
        return f"could not read '{path}': {error}"
    return _fault_in(path, is_mask, file_format, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@cache
def _fault_in(path: str, is_mask: bool, file_format: FileFormat, _version: tuple[int, int, int]) -> str | None:
    """Decode a file; its size and times tell whether it was decoded before."""
    try:
        (read_mask if is_mask else check_image)(path, file_format)
    except UnreadableImageError as error:
        return str(error)
    return None


class NameUnreadableImages(Callback):
    """Callback that names the image or mask on which a run failed, also in data loader workers.

    It also refuses, before a run starts, images that anomalib would misread, by their headers.
    """

    def __init__(self) -> None:
        self._checked: WeakSet[Any] = WeakSet()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse images that would be misread, before the feature cache reads them."""
        for dataset in datasets_in_use(trainer):
            if dataset not in self._checked:
                refuse_misread(dataset)
                self._checked.add(dataset)

    on_train_start = on_validation_start = on_test_start = on_predict_start = on_fit_start

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Rewrite the message of an exception that came from reading images."""
        frames = traceback.walk_tb(exception.__traceback__)  # torch's data loading raises workers' errors again
        loading = any(frame.f_globals.get("__name__", "").startswith("torch.utils.data") for frame, _ in frames)
        if not isinstance(exception, Exception) or not loading:
            return
        causes: dict[File, str] = {}
        for dataset in datasets_in_use(trainer):
            causes |= find_unreadable(files_of(dataset), getattr(dataset, "file_format", None) or DEFAULT_FORMAT)
        if causes:
            option = "--data.skip_unreadable true (of MultiCategory and PredictImages, in Python skip_unreadable=True)"
            reword(exception, f"{enumerated(causes.values())}; to leave such files out, set {option}.")


def datasets_in_use(trainer: pl.Trainer) -> Iterator[Any]:
    """Yield the datasets that the trainer reads from, or is about to read from."""
    stages = (
        trainer.train_dataloader,
        trainer.val_dataloaders,
        trainer.test_dataloaders,
        trainer.predict_dataloaders,
    )
    yield from chain.from_iterable(datasets_of(stage) for stage in stages if stage is not None)
    coming = getattr(getattr(trainer, "datamodule", None), "train_data", None)  # before its loader exists
    if coming is not None:
        yield coming


def refuse_misread(dataset: object) -> None:
    """Refuse files that anomalib's datasets would silently misread, or block on for ever.

    This package's datasets have their own readers, or hold features of images read by these.

    Raises:
        UnreadableImageError: Names the files.
        OSError: Names a pipe or device among them.
    """
    if hasattr(dataset, "file_format") or not isinstance(dataset, AnomalibDataset | PredictDataset):
        return
    files = sorted(files_of(dataset))
    with ThreadPoolExecutor() as readers:
        misread = [path for (path, _), wrong in zip(files, readers.map(is_misread, files), strict=True) if wrong]
    if misread:
        raise UnreadableImageError(
            f"anomalib's reader would cut off values above 255, or fractions, in {enumerated(misread)}: train and test "
            "with MultiCategory and predict with dataset=anomalib_grad.data.PredictImages(path), or save 8-bit files."
        )


def is_misread(file: File) -> bool:
    """Tell from the header of an image or mask whether anomalib would misread it.

    Raises:
        OSError: If it is a pipe or a device.
    """
    path, is_mask = file
    if Path(path).exists():
        refuse_pipes(Path(path))
    try:
        with Image.open(path) as image:
            return image.mode == "F" if is_mask else read_wrongly_by_anomalib(image)
    except Exception:  # noqa: BLE001  # every image format has failures of its own, which reading it will show
        return False
