# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Filling of a feature cache: compute the features of each training image once."""

from collections.abc import Callable, Sequence

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


@torch.no_grad()
def fill(
    trainer: pl.Trainer,
    backbone: FrozenBackbone,
    transform: nn.Module | None,
    loader: DataLoader,
    rows: np.ndarray,
    indices: Sequence[int],
) -> None:
    """Write the features of some images of a loader into an array that has a row for every image.

    ``transform`` is that which anomalib applies to training batches before the backbone. Features are computed in the
    trainer's precision. The state of the random number generators does not change.

    Raises:
        SIGTERMException: If the run is told to stop; Lightning itself checks this only in training.
        ValueError: If features do not fit into float16.
    """
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    largest = np.finfo(rows.dtype).max
    done = 0
    with isolate_rng():
        for batch in track(batches_of(loader, indices), "Caching features", disable=not shown):
            if trainer.received_sigterm:
                raise SIGTERMException
            images = trainer.precision_plugin.convert_input(batch.image.to(trainer.strategy.root_device))
            with trainer.precision_plugin.forward_context():
                features = backbone.rows(images if transform is None else transform(images))
            values = features.float().cpu().numpy()  # (B, F)
            if np.abs(values).max() > largest:
                raise ValueError(
                    f"features of up to {np.abs(values).max():.3g} do not fit into {rows.dtype}; set "
                    f"cache.dtype to float32."
                )
            rows[list(indices[done : done + len(values)])] = values
            done += len(values)


def fill_shared(
    trainer: pl.Trainer, file: CacheFile, limit: int, compute: Callable[[np.ndarray, Sequence[int]], None]
) -> np.ndarray:
    """Fill one file with all processes of a machine, unless it is complete, and map it.

    Args:
        trainer: The trainer, for its processes.
        file: The file of this machine.
        limit: Largest size in bytes of all caches in its folder together.
        compute: Writes the features of the images at some indices into an array with a row for every image.

    Raises:
        OSError: If the file cannot be written.
    """
    leader = trainer.local_rank == 0
    filling = leader and file.begin(limit)
    try:
        trainer.strategy.barrier("feature cache prepared")
        if file.read() is None:
            share = range(trainer.local_rank, file.shape[0], trainer.num_devices)
            file.write(lambda rows: compute(rows, share))
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
