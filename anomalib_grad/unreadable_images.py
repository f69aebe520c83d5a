# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Names the image files at fault when reading data fails: the image library often says what is wrong but not where."""

import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import lightning.pytorch as pl
from anomalib.data.utils import read_image
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.combined_loader import CombinedLoader

NAMED = 5
"""Files named in one message."""


class NameUnreadableImages(Callback):
    """Makes the error of a run that failed on an image or mask name the file, also from data loader workers."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Rewrite the message of an exception that came from reading images."""
        del pl_module
        if not isinstance(exception, Exception) or not comes_from_data_loading(exception):
            return
        with ThreadPoolExecutor() as readers:
            causes = list(filter(None, readers.map(cause_of_failure, sorted(set(files_in_use(trainer))))))
        if causes:
            more = f" and {len(causes) - NAMED} more" if len(causes) > NAMED else ""
            message = f"cannot read {', '.join(causes[:NAMED])}{more}: replace or remove what is damaged."
            exception.args = (message,)
            if isinstance(exception, SyntaxError):  # how the image library reports damaged PNG files
                exception.msg = message


def comes_from_data_loading(exception: BaseException) -> bool:
    """Tell whether torch's data loading raised an exception or passed it on from a worker."""
    frames = traceback.walk_tb(exception.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith("torch.utils.data") for frame, _ in frames)


def files_in_use(trainer: pl.Trainer) -> Iterator[str]:
    """List the images and masks of all data sets that the trainer reads from, or is about to."""
    stages = (
        trainer.train_dataloader,
        trainer.val_dataloaders,
        trainer.test_dataloaders,
        trainer.predict_dataloaders,
    )
    loaders = chain.from_iterable(CombinedLoader(stage).flattened for stage in stages if stage is not None)
    datasets = [getattr(loader, "dataset", None) for loader in loaders]
    datasets.append(getattr(getattr(trainer, "datamodule", None), "train_data", None))  # before its loader is there
    for dataset in datasets:
        samples = getattr(dataset, "samples", None)
        if samples is not None:
            yield from samples["image_path"].astype(str)
            yield from (str(path) for path in samples.get("mask_path", []) if isinstance(path, str) and path)
        yield from map(str, getattr(dataset, "image_filenames", []))


def cause_of_failure(path: str) -> str | None:
    """Read an image file; describe it and the cause if it cannot be read."""
    try:
        read_image(path)
    except Exception as error:  # noqa: BLE001  # every image format has failures of its own
        return f"{path} ({type(error).__name__}: {error})"
    return None
