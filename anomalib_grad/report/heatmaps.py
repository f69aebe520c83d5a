# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Result images, for the lack of which no figure of a test is lost."""

import logging
from typing import Any, TypeVar

import lightning.pytorch as pl
from anomalib.visualization import ImageVisualizer

from anomalib_grad.files.atomic import CannotWriteError, naming_disk

from .visualizer import DistinctImageVisualizer

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Heatmaps(DistinctImageVisualizer):
    """A result image for each input; a test whose heatmaps have no room goes on to its figures, and fails at its end.

    A prediction, of which the heatmaps are what the command line gives, fails at once.
    """

    _unwritten: CannotWriteError | None = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start anew."""
        super().on_test_start(trainer, pl_module)
        self._unwritten = None

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # anomalib's
        """Write the heatmaps of a batch, unless an earlier one could not be written."""
        if self._unwritten is not None:
            return
        try:
            self._write(trainer, *args, **kwargs)
        except CannotWriteError as error:
            logger.warning("%s The test goes on without heatmaps.", error.strerror)
            self._unwritten = error

    def on_predict_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # anomalib's
        """Write the heatmaps of a batch.

        Raises:
            CannotWriteError: If the folder cannot be written to, or is full.
        """
        self._write(trainer, *args, **kwargs)

    def _write(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # anomalib's
        with naming_disk(self._folder(trainer)):
            super().on_test_batch_end(trainer, *args, **kwargs)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have a test without its heatmaps fail, now that its figures are printed.

        Raises:
            CannotWriteError: What the first heatmap failed on.
        """
        del trainer, pl_module, stage
        error, self._unwritten = self._unwritten, None
        if error is not None:
            raise error


def distinct(visualizer: T) -> T | Heatmaps:
    """Give anomalib's own visualiser, whose results of equal names overwrite one another, as :class:`Heatmaps`.

    Args:
        visualizer: What a model was given; all else comes back as it is.
    """
    if type(visualizer) is not ImageVisualizer:
        return visualizer
    heatmaps = Heatmaps()
    vars(heatmaps).update(vars(visualizer))
    return heatmaps
