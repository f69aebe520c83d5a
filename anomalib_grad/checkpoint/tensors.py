# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Hold a file's tensors to those that a network expects."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .archive import AuthorsCheckpointError


def check_tensors(path: Path, part: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a network could not take exactly as they are.

    Args:
        path: File that the tensors come from, for the message.
        part: What the tensors are, for the message.
        tensors: The tensors, under this package's names.
        expected: State dict of the network; shapes and types are read, so it may be on the ``meta`` device.

    Raises:
        AuthorsCheckpointError: If names, shapes or types differ, or a value is not finite.
    """
    missing, surplus = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or surplus:
        what = f"lacks {min(missing)!r}" if missing else f"has {min(surplus)!r} too many"
        raise AuthorsCheckpointError(f"{part} in {str(path)!r} {what} (this package's name): the file is incomplete.")
    for key, tensor in tensors.items():
        like = expected[key]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise AuthorsCheckpointError(
                f"{part} in {str(path)!r} has {key!r} (this package's name) as {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}; its other tensors call for {like.dtype} of shape {tuple(like.shape)}."
            )
        if not torch.isfinite(tensor).all():
            raise AuthorsCheckpointError(f"{part} in {str(path)!r} has values in {key!r} that are not finite.")
