# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Visualiser: anomalib's result images under unique names, with each image as the model has read it."""

import logging
import os
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import numpy as np
from anomalib.data import ImageBatch, ImageItem
from anomalib.visualization import ImageVisualizer
from PIL import Image
from torchvision.transforms.v2.functional import to_image

from anomalib_grad.categories.distributed import all_gather
from anomalib_grad.data.read_or_refuse import FileFormat, open_up_to
from anomalib_grad.data.unreadable import datasets_of, files_of
from anomalib_grad.files.atomic import CannotWriteError, explain_write_errors
from anomalib_grad.thresholds.post_processor import per_category_or_none

from .output_names import output_names, read_record, write_record
from .pictures import file_format_of, hatched, picture_of
from .predictions import PREDICTIONS, Prediction, write_predictions

logger = logging.getLogger(__name__)

T = TypeVar("T")


class DistinctImageVisualizer(ImageVisualizer):
    """anomalib's ``ImageVisualizer``, with the same arguments and images, but a separate result file for each input.

    Inputs of the same file name, in different folders or earlier runs, do not overwrite one another's results: see
    ``output_names.py``. ``inputs.json`` beside the results maps each result to its input. 16-bit images appear as the
    model reads them; anomalib shows them white. Without ``output_dir``, results go to the folder ``images`` of the run.
    A prediction also writes its scores there, to ``predictions.csv``, and may keep an earlier table under another name.

    If results cannot be written, a test still computes its metrics, and fails at its end. A prediction fails at once:
    on the command line, the results are its only output.
    """

    _names: dict[str, str]
    _unrecorded: dict[str, str]
    _unwritten: CannotWriteError | None = None
    _predictions: list[Prediction]
    _files: FileFormat

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the results of all images that will be tested."""
        self._unwritten = None
        self._start(trainer, trainer.test_dataloaders)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the results of all images that will be predicted on."""
        self._predictions = []
        self._start(trainer, trainer.predict_dataloaders)

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # anomalib's
        """Write the results of a batch, unless writing an earlier one failed."""
        if self._unwritten is not None:
            return
        try:
            self._write(trainer, *args, **kwargs)
        except CannotWriteError as error:
            logger.warning("%s The test continues without heatmaps.", error.strerror)
            self._unwritten = error

    def on_predict_batch_end(  # anomalib's
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: ImageBatch,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Write the results of a batch.

        Raises:
            CannotWriteError: If the folder is not writable, or the disk is full.
        """
        paths = self._write(trainer, pl_module, outputs, *args, **kwargs)
        self._predictions += predictions_of(pl_module, outputs, paths)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the scores of all processes and log where the results are: the command line shows nothing else.

        Raises:
            CannotWriteError: If the folder is not writable, or the disk is full.
        """
        rounds = zip_longest(*all_gather(self._predictions))  # Lightning assigns images to the processes in turn
        self._write_table(trainer, [prediction for prediction in chain.from_iterable(rounds) if prediction is not None])

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write the scores so far of a prediction that ends early, without waiting for other processes."""
        if trainer.predicting and not isinstance(exception, CannotWriteError):
            self._write_table(trainer, getattr(self, "_predictions", []))  # none before a prediction starts

    def _write_table(self, trainer: pl.Trainer, predictions: Sequence[Prediction]) -> None:
        """Write predictions to the table and log where the results are."""
        self._predictions = []
        if not predictions or not trainer.is_global_zero:
            return
        folder = self._folder(trainer)
        kept = write_predictions(predictions, folder / PREDICTIONS)
        verdicts = [prediction.pred_label for prediction in predictions if prediction.pred_label is not None]
        if verdicts:
            say = "%d of %d images are anomalous; heatmaps and scores (%s) are in %s"
            logger.info(say, sum(verdicts), len(verdicts), PREDICTIONS, folder)
        if kept is not None:
            logger.info("the table of an earlier prediction was renamed to %s", kept.name)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise the error of a test that could not write its results, now that its metrics are printed.

        Raises:
            CannotWriteError: The error of the first failed result.
        """
        error, self._unwritten = self._unwritten, None
        if error is not None:
            raise error

    def _write(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> list[str]:
        """Write the results of a batch and return the paths of its images; the arguments are Lightning's."""
        ignored = getattr(pl_module, "ignored_pixels", lambda _: None)(batch)
        paths = batch.image_path or [f"{dataloader_idx}_{batch_idx}_{number}.png" for number in range(len(batch))]
        folder = self._folder(trainer)
        left_out = [None] * len(batch) if ignored is None else ignored.expand(len(batch), -1, -1).cpu().numpy()
        with explain_write_errors(folder):
            unlisted = [path for path in paths if path not in self._names]
            if unlisted:
                self._name(trainer, unlisted)
            if self._unrecorded and trainer.is_global_zero:  # not before there is something to write
                write_record(folder, read_record(folder), self._unrecorded)
            self._unrecorded = {}
            for path, item, own in zip(paths, batch, left_out, strict=True):
                picture = self.visualize(self._as_read(item, own))
                if isinstance(picture, Image.Image):
                    file = folder / self._names[path]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(file, compress_level=1)  # PNG: a quarter of the time, a seventh more bytes
        return [os.path.abspath(path) for path in batch.image_path] if batch.image_path else paths  # noqa: PTH100

    def _folder(self, trainer: pl.Trainer) -> Path:
        return Path(self.output_dir or Path(trainer.default_root_dir) / "images")

    def _start(self, trainer: pl.Trainer, loaders: Any) -> None:  # noqa: ANN401  # whatever Lightning was given
        self._names, self._unrecorded = {}, {}
        self._files = file_format_of(loaders)
        self._name(trainer, _inputs(loaders))

    def _name(self, trainer: pl.Trainer, inputs: list[str]) -> None:
        """Choose names for the results of ``inputs``."""
        record = {**read_record(self._folder(trainer)), **{name: path for path, name in self._names.items()}}
        data: Any = getattr(trainer, "datamodule", None)
        names = output_names(inputs, record, getattr(data, "name", None), getattr(data, "category", None))
        self._names |= names
        self._unrecorded |= names

    def _as_read(self, item: ImageItem, ignored: np.ndarray | None) -> ImageItem:
        """Return an item with the image's pixels instead of its path, since anomalib would decode the file differently.

        The region ``ignored``, ``(H, W)`` bool, is hatched.
        """
        if item.image_path is None:
            return item
        with open_up_to(item.image_path, self._files.max_pixels) as file:
            width, height = self.field_size
            file.draft("RGB", (2 * width, 2 * height))  # a large JPEG need not be decoded whole
            picture = picture_of(file, (height, width), self._files.bits)
        if ignored is not None:
            picture = hatched(picture, ignored)
        return item.update(in_place=False, image=to_image(picture), image_path=None)


def predictions_of(module: pl.LightningModule, batch: ImageBatch, paths: Sequence[str]) -> list[Prediction]:
    """Return the predictions for a batch that the model's post-processor has processed."""
    nothing = [None] * len(batch)
    own = per_category_or_none(getattr(module, "post_processor", None))
    category = None if own is None else own.category_index(batch)
    columns = (
        nothing if batch.pred_score is None else batch.pred_score.flatten().tolist(),
        nothing if batch.pred_label is None else batch.pred_label.flatten().tolist(),
        nothing if own is None or category is None else own.category_names(category),
    )
    return [Prediction(*row) for row in zip(paths, *columns, strict=True)]


def _inputs(loaders: Any) -> list[str]:  # noqa: ANN401  # whatever Lightning was given
    """List the images that loaders will draw, if their data sets list them, with the same paths as in batches."""
    files = chain.from_iterable(map(files_of, datasets_of(loaders)))
    return [str(Path(path).resolve()) for path, is_mask in files if not is_mask]


def with_distinct_names(visualizer: T) -> T | DistinctImageVisualizer:
    """Replace anomalib's own visualiser, whose results can overwrite one another; return others unchanged."""
    if type(visualizer) is not ImageVisualizer:
        return visualizer
    ours = DistinctImageVisualizer()
    vars(ours).update(vars(visualizer))
    return ours
