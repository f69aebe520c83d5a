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
)
"""What torch raises on files that it cannot read."""


class ExcessError(ValueError):
    """A file claims to hold more than it has bytes for; the message follows the file's name in a sentence."""


def read_shapes(path: Path) -> Any:  # noqa: ANN401  # whatever was saved
    """Read a file as :func:`load_shapes` does; ``None`` if it cannot be read, which reading all of it will explain.

    Raises:
        ExcessError: As there.
    """
    try:
        return load_shapes(path)
    except ExcessError:
        raise
    except UNREADABLE:
        return None


def load_shapes(path: Path) -> Any:  # noqa: ANN401  # whatever was saved
    """Read a file with its tensors on the ``meta`` device: nothing is run, and none of their memory is allocated.

    Args:
        path: A file of ``torch.save``; classes beyond tensors must be among torch's safe globals, as for reading it.

    Returns:
        The content.

    Raises:
        ExcessError: If the file is compressed, or a part or tensor of it is larger than the file.
        Exception: One of :data:`UNREADABLE`, if it cannot be read.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        check_archive(path)
    content = torch.load(path, map_location="meta", weights_only=True)
    for name, tensor in named_tensors(content):
        if tensor.layout is not torch.strided or max(tensor.nbytes, tensor.untyped_storage().nbytes()) > size:
            raise ExcessError(f"its tensor {name!r} of shape {tuple(tensor.shape)} is not stored in full")
    return content


def check_archive(path: Path) -> None:
    """Look at what the parts of a zip file claim to be.

    Raises:
        ExcessError: If they are compressed, or take more bytes than the file.
        zipfile.BadZipFile: If their list is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ExcessError("it is compressed, which PyTorch's files never are")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ExcessError("its parts claim more bytes than it has")


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
