# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Computes the features of training images, each once, for the rows of a cache."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.seed import isolate_rng
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

from anomalib_grad.backbone import FrozenBackbone

from .dataset import batches_of
from .store import CacheFile

Fill = Callable[[np.ndarray, Sequence[int]], None]
"""Writes the features of the images at some indices into an array with a row for every image."""


class FeatureSource(NamedTuple):
    """What makes features of images."""

    backbone: FrozenBackbone
    transform: nn.Module | None
    """What anomalib does to training batches before the backbone."""


@torch.no_grad()
def feature_rows(trainer: pl.Trainer, source: FeatureSource, batches: DataLoader) -> Iterator[np.ndarray]:
    """Compute the feature rows ``(B, F)`` of image batches, in the precision that the trainer trains in.

    Raises:
        SIGTERMException: If the run is told to stop, which Lightning looks at only where it trains.
    """
    backbone, transform = source
    for batch in batches:
        if trainer.received_sigterm:
            raise SIGTERMException
        images = trainer.precision_plugin.convert_input(batch.image.to(trainer.strategy.root_device))
        with trainer.precision_plugin.forward_context():
            rows = backbone.rows(images if transform is None else transform(images))
        yield rows.float().cpu().numpy()


def filler(trainer: pl.Trainer, source: FeatureSource, loader: DataLoader) -> Fill:
    """Give a function that computes features of the loader's images and shows how far it is.

    It leaves the random number generators as they were.

    Raises:
        ValueError: When called, if features do not fit into float16.
    """
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None

    def fill(rows: np.ndarray, indices: Sequence[int]) -> None:
        largest = np.finfo(rows.dtype).max
        batches = batches_of(loader, indices)
        done = 0
        with isolate_rng():
            computed = feature_rows(trainer, source, batches)
            for values in track(computed, "Caching features", total=len(batches), disable=not shown):
                if np.abs(values).max() > largest:
                    raise ValueError(
                        f"features of up to {np.abs(values).max():.3g} do not fit into {rows.dtype}; set "
                        f"cache.dtype to float32."
                    )
                rows[list(indices[done : done + len(values)])] = values
                done += len(values)

    return fill


def fill_shared(trainer: pl.Trainer, file: CacheFile, limit: int, fill: Fill) -> np.ndarray:
    """Let the processes of a machine fill one file together, unless it is complete, and map it.

    Args:
        trainer: The trainer, for its processes.
        file: The file of this machine.
        limit: Bytes that all caches of its folder may take together.
        fill: Computes features.

    Raises:
        OSError: If the file cannot be written.
    """
    leader = trainer.local_rank == 0
    filling = leader and file.begin(limit)
    try:
        trainer.strategy.barrier("feature cache prepared")
        if file.read() is None:
            share = range(trainer.local_rank, file.shape[0], trainer.num_devices)
            file.write(lambda rows: fill(rows, share))
        trainer.strategy.barrier("feature cache filled")
        if filling:
            file.finish()
    except BaseException:
        if filling:
            file.abort()
        raise
    trainer.strategy.barrier("feature cache complete")
    rows = file.read()
    if rows is None:
        raise OSError(f"the feature cache {file.path} was removed while it was being opened; start again.")
    return rows
