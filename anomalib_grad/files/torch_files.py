# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a file of ``torch.save`` claims to hold, looked at before anything of that size is allocated."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pickles import ExcessError, check_legacy, check_pickle

UNREADABLE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What torch raises on files that it cannot read."""
MOST_LEVELS = 100
MOST_PARTS = 10**6
"""Limits of what is looked at, part by part: more is no training's, or lists that hold each other over and over."""


def read_shapes(path: Path) -> Any:  # noqa: ANN401  # whatever was saved
    """Check a file, then read it as :func:`load_shapes` does; ``None`` if it cannot be read, as a reader will explain.

    Raises:
        ExcessError: As there, and if to read it would take more than it holds.
        zipfile.BadZipFile: If a part of it is not as it was written.
    """
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        else:
            with path.open("rb") as file:
                check_legacy(file)
        content = load_shapes(path)
    except ExcessError:
        raise
    except UNREADABLE:
        return None
    if zipfile.is_zipfile(path):
        check_sums(path)
    return content


def load_shapes(path: Path) -> Any:  # noqa: ANN401  # whatever was saved
    """Read a file with its tensors on the ``meta`` device: nothing is run, and none of their memory is allocated.

    Args:
        path: A file of ``torch.save`` that passed :func:`check_archive` or :func:`check_legacy`; classes beyond tensors
            must be among torch's safe globals, as for reading it.

    Returns:
        The content.

    Raises:
        ExcessError: If a tensor is larger than the file, or it is nested without end.
        Exception: One of :data:`UNREADABLE`, if it cannot be read.
    """
    size = path.stat().st_size
    content = torch.load(path, map_location="meta", weights_only=True)
    _count(content, {}, level=0)
    for name, tensor in named_tensors(content):
        if tensor.layout is not torch.strided or max(tensor.nbytes, tensor.untyped_storage().nbytes()) > size:
            raise ExcessError(f"its tensor {name!r} of shape {tuple(tensor.shape)} is not stored in full")
    return content


def check_archive(path: Path) -> None:
    """Look at what the parts of a zip file claim to be.

    Raises:
        ExcessError: If they are compressed, or take more bytes than the file, or to read them would take more.
        zipfile.BadZipFile: If their list is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size = path.stat().st_size
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ExcessError("it is compressed, which PyTorch's files never are")
        if sum(entry.file_size for entry in entries) > size:
            raise ExcessError("its parts claim more bytes than it has")
        pickles = [archive.read(entry) for entry in entries if entry.filename.endswith("/data.pkl")]
    for content in pickles:
        check_pickle(content)


def check_sums(path: Path) -> None:
    """Compare the parts of a zip file with their check sums, which torch does not.

    Raises:
        zipfile.BadZipFile: If one differs.
    """
    with zipfile.ZipFile(path) as archive:
        if (part := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"its part {part!r} is damaged")


def _count(content: object, counted: dict[int, int], level: int) -> int:
    """Count the parts of nested collections, one in several places as often as it is there.

    Args:
        content: What was read.
        counted: Results so far, by the identity of the collections.
        level: Collections around it.

    Raises:
        ExcessError: If there are too many, or too many within each other.
    """
    if not isinstance(content, Mapping | list | tuple):
        return 1
    if id(content) not in counted:
        if level > MOST_LEVELS:
            raise ExcessError("it is nested deeper than what any training writes")
        parts = content.values() if isinstance(content, Mapping) else content
        counted[id(content)] = 1 + sum(_count(part, counted, level + 1) for part in parts)
    if counted[id(content)] > MOST_PARTS:
        raise ExcessError("it holds itself, or more parts than any training writes")
    return counted[id(content)]


def named_tensors(content: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Walk through all tensors in nested dictionaries, lists and tuples, with the last name above each."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from named_tensors(value, str(key))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from named_tensors(value, name)
