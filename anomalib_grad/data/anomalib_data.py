# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Fixes for runs on anomalib's own datasets: leave out hidden files, and explain missing splits, loaders and masks."""

import logging
import os
import traceback
from collections.abc import Iterable
from pathlib import Path, PurePath
from urllib.error import URLError

import lightning.pytorch as pl
from anomalib.data import AnomalibDataModule, AnomalibDataset, PredictDataset
from anomalib.data.errors import MisMatchError
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from anomalib_grad.files.refusals import reword

from .ignore_masks import folder_of
from .listing import is_hidden
from .unreadable import datasets_of

logger = logging.getLogger(__name__)

TAKE_IMAGES = (
    "take test images for validation (val_split_mode='same_as_test' or 'from_test'), then validate or train. Or take "
    "training images (val_split_mode='from_train', with Grad's false_alarm_rate), then train."
)
"""Advice for data without validation images."""
_NO_LOADER = "_dataloader` must be implemented"


class LeaveOutHidden(Callback):
    """Callback that removes hidden files, by the rule of ``listing.py``, from anomalib's datasets before a run."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Filter the datamodule's datasets before their loaders are created."""
        for name in ("train_data", "val_data", "test_data"):
            dataset = getattr(getattr(trainer, "datamodule", None), name, None)
            if isinstance(dataset, AnomalibDataset):
                leave_out_hidden(dataset)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Filter the images to predict on; the loader reads no image before this."""
        for dataset in datasets_of(trainer.predict_dataloaders):
            if isinstance(dataset, PredictDataset) and len(dataset) > 1:  # one file may be meant, whatever its name
                files = dataset.image_filenames
                folder = os.path.commonpath([file.parent for file in files])
                dataset.image_filenames = [files[row] for row in visible(files, folder)]


class NameMissingImages(Callback):
    """Callback that names the setting which supplies images or masks that a run did not find."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Rewrite anomalib's and Lightning's errors for missing datasets, loaders, masks and failed downloads."""
        data = getattr(trainer, "datamodule", None)
        kind = type(data).__name__
        if isinstance(exception, AttributeError) and isinstance(exception.obj, AnomalibDataModule):
            if exception.name == "val_data":
                reword(exception, f"{kind} has no validation images to fit thresholds on: {TAKE_IMAGES}")
        elif isinstance(exception, MisconfigurationException) and data is None and _NO_LOADER in str(exception):
            given = "a folder of them (--data)" if trainer.predicting else "a datamodule, such as --data MultiCategory"
            reword(exception, f"there are no images to run on: give {given}.")
        elif isinstance(exception, URLError) and isinstance(data, AnomalibDataModule):
            parts = getattr(data, "datamodules", {"": data}).values()
            missing = (part for part in parts if (folder := folder_of(part)) is None or not folder.is_dir())
            sought = next(missing, data)
            root, category = getattr(sought, "root", None), sought.category
            reword(
                exception,
                f"{kind} finds no folder {category!r} in {str(root)!r} and cannot download its data set "
                f"({exception.reason}); give the folder that holds {category!r} as root.",
            )
        elif isinstance(data, AnomalibDataModule) and _is_of_pairing(exception):
            folder = folder_of(data)
            place = "" if folder is None else f" in {str(folder)!r}"
            reword(
                exception,
                f"{kind} pairs images and masks in sorted order, but in that order the files{place} do "
                f"not match; use MultiCategory, which pairs them by name and says which image lacks a mask.",
            )


def _is_of_pairing(exception: BaseException) -> bool:
    """Tell whether an unforeseen error arose where one of anomalib's datasets pairs images and masks."""
    frames = [frame for frame, _ in traceback.walk_tb(exception.__traceback__)]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames]
    if not any(module.startswith("anomalib.data.datasets.image.") for module in modules):
        return False
    unforeseen = isinstance(exception, TypeError | ValueError) and not modules[-1].startswith("anomalib.")
    return unforeseen or isinstance(exception, MisMatchError)


def leave_out_hidden(dataset: AnomalibDataset) -> None:
    """Remove hidden images from a dataset, in place."""
    folder = getattr(dataset, "root_category", None) or getattr(dataset, "root", None)
    kept = visible(dataset.samples["image_path"], folder)
    if len(kept) < len(dataset.samples):
        dataset.subsample(kept, inplace=True)


def visible(paths: Iterable[str | Path], folder: str | Path | None) -> list[int]:
    """Return the indices of the paths that are not hidden, and warn of the others.

    A file outside ``folder`` counts as hidden only by its own name.
    """
    files = list(map(Path, paths))
    hidden = {row for row, file in enumerate(files) if is_hidden(_below(file, folder))}
    if hidden:
        logger.warning("left out %d hidden files, which are never images (first: %s)", len(hidden), files[min(hidden)])
    return [row for row in range(len(files)) if row not in hidden]


def _below(file: Path, folder: str | Path | None) -> PurePath:
    bases = [] if folder is None else [Path(folder), Path(folder).resolve()]  # some datasets resolve their paths
    return next((file.relative_to(base) for base in bases if file.is_relative_to(base)), PurePath(file.name))
