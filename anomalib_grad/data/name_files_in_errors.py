# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Names image files at fault: those that cannot be read, and those of which anomalib's reader would make white images.

The image library often says what is wrong but not where, and anomalib clips values above 255.
"""

import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakSet

import lightning.pytorch as pl
from anomalib.data import AnomalibDataset, PredictDataset
from lightning.pytorch.callbacks import Callback
from PIL import Image

from anomalib_grad.files.refusals import enumerated, reword

from .dataset import MultiCategoryDataset
from .pixels import read_wrongly_by_anomalib
from .prediction import PredictImages
from .read_or_refuse import AS_THEY_SAY, UnreadableImageError, refuse_pipes
from .skip_unreadable import File, datasets_of, files_of, find_unreadable

READING = (AnomalibDataset, PredictDataset)
"""Data sets that read files."""


class NameUnreadableImages(Callback):
    """Makes the error of a run that failed on an image or mask name the file, also from data loader workers.

    A run on images that anomalib would read wrongly is refused before it starts: a look at the headers.
    """

    def __init__(self) -> None:
        self._checked: WeakSet[Any] = WeakSet()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse images that would be read wrongly; before the feature cache reads them."""
        for dataset in datasets_in_use(trainer):
            if dataset not in self._checked:
                refuse_misread(dataset)
                self._checked.add(dataset)

    on_train_start = on_validation_start = on_test_start = on_predict_start = on_fit_start

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Rewrite the message of an exception that came from reading images."""
        frames = traceback.walk_tb(exception.__traceback__)  # torch's data loading passes on what a worker raised
        loading = any(frame.f_globals.get("__name__", "").startswith("torch.utils.data") for frame, _ in frames)
        if not isinstance(exception, Exception) or not loading:
            return
        causes: dict[File, str] = {}
        for dataset in datasets_in_use(trainer):
            causes |= find_unreadable(files_of(dataset), getattr(dataset, "file_format", AS_THEY_SAY))
        if causes:
            left_out = "skip_unreadable=True of MultiCategory and PredictImages leaves such files out"
            reword(exception, f"{enumerated(causes.values())}; {left_out}.")


def datasets_in_use(trainer: pl.Trainer) -> Iterator[Any]:
    """Give the data sets that the trainer reads from, or is about to."""
    stages = (
        trainer.train_dataloader,
        trainer.val_dataloaders,
        trainer.test_dataloaders,
        trainer.predict_dataloaders,
    )
    yield from chain.from_iterable(datasets_of(stage) for stage in stages if stage is not None)
    coming = getattr(getattr(trainer, "datamodule", None), "train_data", None)  # before its loader is there
    if coming is not None:
        yield coming


def refuse_misread(dataset: object) -> None:
    """Refuse what anomalib's datasets would read wrongly, and nothing but the results tell, or wait for without end.

    Those of this package have readers of their own, or give features of what these have read.

    Raises:
        UnreadableImageError: Names the files.
        OSError: Names a pipe or device among them.
    """
    if isinstance(dataset, MultiCategoryDataset | PredictImages) or not isinstance(dataset, READING):
        return
    files = sorted(files_of(dataset))
    with ThreadPoolExecutor() as readers:
        misread = [path for (path, _), wrong in zip(files, readers.map(is_misread, files), strict=True) if wrong]
    if misread:
        raise UnreadableImageError(
            f"anomalib would cut off the values above 255, or the fractions, of {enumerated(misread)}: train and test "
            "through MultiCategory and predict with dataset=anomalib_grad.data.PredictImages(path), or save 8 bits."
        )


def is_misread(file: File) -> bool:
    """Tell from the header of an image or mask whether anomalib would read it wrongly.

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
