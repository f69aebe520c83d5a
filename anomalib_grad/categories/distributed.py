# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Helpers for evaluation in several processes."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import distributed
from torch.utils.data import DistributedSampler

T = TypeVar("T")


def all_gather(value: T) -> list[T]:
    """Gather one picklable value from every process, in the order of the ranks; ``[value]`` in a single process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, value)
    return gathered


def own_samples(dataloader: object) -> int | None:
    """Count the samples of a data loader that are this process's own.

    ``DistributedSampler`` repeats samples at the end so that every process sees equally many. Leave the repetitions
    out to get the result of a single process.

    Returns:
        Number of leading samples of this process that are not repetitions; ``None`` if the sampler repeats none.
    """
    sampler = getattr(getattr(dataloader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return None
    return len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
