# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a file of ``torch.save`` claims to hold, looked at before anything of that size is allocated."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor


def find_excess(path: Path) -> str | None:
    """Find out whether reading a file would take more memory than the file has bytes.

    Nothing in the file is run, and no tensor is allocated.

    Args:
        path: A file of ``torch.save``; classes beyond tensors must be among torch's safe globals, as for reading it.

    Returns:
        What is wrong, as the part of a sentence that follows the file's name; ``None`` if nothing is, or if the file
        cannot be read at all, which reading it will say.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except zipfile.BadZipFile:
            return None
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            return "it is compressed, which PyTorch's files never are"
        if sum(entry.file_size for entry in entries) > size:
            return "its parts overlap"
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, EOFError, LookupError, AttributeError):
        return None
    for name, tensor in named_tensors(content):
        if max(tensor.nbytes, tensor.untyped_storage().nbytes()) > size:
            return f"its tensor {name!r} of shape {tuple(tensor.shape)} is not stored in full"
    return None


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
