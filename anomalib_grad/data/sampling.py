# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Samplers: balanced draws for training, and evaluation batches that contain every image exactly once."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, WeightedRandomSampler


class BalancedSampler(WeightedRandomSampler):
    """Draw N of N images with replacement, all categories equally often on average.

    The draws of an epoch depend only on seed and epoch, so a resumed run draws as an uninterrupted one would. Lightning
    sets the epoch and, in a distributed run, divides the draws among the processes. Without a seed they follow torch's
    global random state.
    """

    def __init__(self, categories: Sequence[str], seed: int | None) -> None:
        counts = Counter(categories)
        super().__init__([1 / counts[category] for category in categories], num_samples=len(categories))
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch to draw for, counted from 0; otherwise each iteration draws the same."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.seed is not None:
            self.generator = torch.Generator().manual_seed(self.seed + self.epoch)  # as torch's DistributedSampler
        return super().__iter__()


class EvaluationBatchSampler(BatchSampler):
    """Batches in the sampler's order that never mix groups of images and never repeat an image.

    The groups are those of the sampler's dataset, in its attribute ``groups``: a number for each image.

    In distributed runs Lightning passes a ``DistributedSampler``, which repeats images until all processes have equally
    many. Repeated images would count twice in the metrics, so here each process gets its share without repetition.

    Args:
        sampler: Yields indices of the dataset.
        batch_size: Largest number of images in a batch, which ends where the group changes.
        drop_last: Leave out smaller batches.

    Raises:
        ValueError: If there are more processes than images, or if the dataset gives no groups.
    """

    def __init__(
        self,
        sampler: Sampler[int] | Iterable[int],
        batch_size: int,
        drop_last: bool,  # Lightning replaces `sampler` and `drop_last` by these names
    ) -> None:
        super().__init__(_without_repetition(sampler), batch_size, drop_last)
        self.groups = _groups_behind(sampler)

    def __iter__(self) -> Iterator[list[int]]:
        for _, run in groupby(self.sampler, key=self.groups.__getitem__):
            indices = list(run)
            for start in range(0, len(indices), self.batch_size):
                batch = indices[start : start + self.batch_size]
                if len(batch) == self.batch_size or not self.drop_last:
                    yield batch

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _groups_behind(sampler: Any) -> Sequence[int]:  # noqa: ANN401  # torch's samplers, or Lightning's around them
    """Return the groups of a sampler's dataset; a subset, which is indexed differently, has none."""
    source = sampler
    while not hasattr(source, "groups"):
        names = ("data_source", "dataset", "_sampler") if isinstance(source, Sampler) else ("_sampler",)
        within = next((name for name in names if hasattr(source, name)), None)
        if within is None:
            raise ValueError(
                f"{type(source).__name__} does not say which images can share a batch: give the dataset an attribute "
                f"groups with one number per image, equal for images with the same kinds of ground truth."
            )
        source = getattr(source, within)
    return cast("Sequence[int]", source.groups)


def _without_repetition(sampler: Sampler[int] | Iterable[int]) -> Sampler[int] | Iterable[int]:
    if not isinstance(sampler, DistributedSampler) or isinstance(sampler, UnrepeatedDistributedSampler):
        return sampler
    n_images = len(sampler.dataset)  # type: ignore[arg-type]  # map-style datasets have a length
    if n_images < sampler.num_replicas:
        raise ValueError(f"{n_images} images cannot be shared by {sampler.num_replicas} processes; use fewer devices")
    return UnrepeatedDistributedSampler(sampler.dataset, sampler.num_replicas, sampler.rank, shuffle=False)
