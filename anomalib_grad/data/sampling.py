# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which image is read when: balanced training draws, and evaluation batches that count every image exactly once."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, WeightedRandomSampler


def balanced_weights(categories: Sequence[str]) -> torch.Tensor:
    """Weights ``(N,)``, float64, of N images of which each has a category: those of one category sum to 1."""
    counts = Counter(categories)
    return torch.tensor([1.0 / counts[category] for category in categories], dtype=torch.float64)


class BalancedSampler(WeightedRandomSampler):
    """Draw N of N images with replacement, every category equally often on average.

    The draws of an epoch depend on seed and epoch alone, so that a resumed run draws what an uninterrupted one would.
    Lightning sets the epoch and, in a distributed run, shares the draws out among the processes. Without a seed they
    follow torch's global one.
    """

    def __init__(self, categories: Sequence[str], seed: int | None) -> None:
        weights = balanced_weights(categories)
        super().__init__(weights.tolist(), num_samples=len(weights), replacement=True)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to draw for, counted from 0; without a call each iteration draws the same."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.seed is not None:
            self.generator = torch.Generator().manual_seed(self.seed + self.epoch)  # as torch's DistributedSampler
        return super().__iter__()


class EvaluationBatchSampler(BatchSampler):
    """Batches in the sampler's order that never mix groups, and never repeat an image.

    Lightning hands a batch sampler its ``DistributedSampler`` in distributed runs, which repeats images until all
    processes have equally many; repeated images would count twice in the metrics. Here each process gets its share
    without repetition instead.

    Args:
        sampler: Yields indices into ``groups``.
        batch_size: Largest number of images in a batch.
        drop_last: Leave out batches smaller than that.
        groups: Group of each image of the dataset; a batch ends where the group changes. ``None`` takes those of the
            dataset that the sampler draws from: Lightning, which makes another one for predictions, does not know them.

    Raises:
        ValueError: With more processes than images, or if neither ``groups`` nor the data set has them.
    """

    def __init__(
        self,
        sampler: Sampler[int] | Iterable[int],
        batch_size: int,
        drop_last: bool,  # Lightning replaces `sampler` and `drop_last` by these names
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__(_without_repetition(sampler), batch_size, drop_last)
        self.groups = _groups_behind(sampler) if groups is None else groups

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
    """Groups of the data set that a sampler draws from; a part of one, which is numbered otherwise, has none."""
    source = sampler
    while not hasattr(source, "groups"):
        names = ("data_source", "dataset", "_sampler") if isinstance(source, Sampler) else ("_sampler",)
        inner = [getattr(source, name) for name in names if hasattr(source, name)]
        if not inner:
            raise ValueError(
                f"{type(source).__name__} does not say which images can share a batch: give the data set an attribute "
                f"groups, a number for each image, alike where images have the same kinds of ground truth."
            )
        source = inner[0]
    groups: Sequence[int] = source.groups
    return groups


def _without_repetition(sampler: Sampler[int] | Iterable[int]) -> Sampler[int] | Iterable[int]:
    if not isinstance(sampler, DistributedSampler) or isinstance(sampler, UnrepeatedDistributedSampler):
        return sampler
    n_images = len(sampler.dataset)  # type: ignore[arg-type]  # map-style datasets have a length
    if n_images < sampler.num_replicas:
        raise ValueError(f"{n_images} images cannot be shared by {sampler.num_replicas} processes; use fewer devices")
    return UnrepeatedDistributedSampler(
        sampler.dataset,
        num_replicas=sampler.num_replicas,
        rank=sampler.rank,
        shuffle=False,
    )
