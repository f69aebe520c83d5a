# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of ``torch.save`` files before loading: they may hold tensors and plain data alone, all stored in full.

PyTorch's restricted unpickler runs only functions that it trusts. Some of them (NumPy's, ``bytearray``,
``_codecs.encode``) make values of any size. No training writes these, so they are refused as well.
"""

import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from pickletools import genops
from typing import IO, Any

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
    MemoryError,
    OSError,
)
"""Errors of zipfile and torch for files that they cannot read."""
PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.set|torch\.nn\.parameter\.Parameter"
    r"|torch\._utils\._rebuild_(parameter|tensor|tensor_v2|qtensor|meta_tensor_no_storage)"
    r"|torch\.(\w+Storage|Size|device|bool|per_tensor_affine|(b?float|u?int|complex)\d+)"
)
"""Names of the classes and functions that tensors and plain data are made of."""
MAX_SHARED = 16
"""Most references to a tuple, list or dictionary that is already stored. A training writes three at most; a file that
nests them doubles its content with each."""
_LEGACY_PICKLES = 5  # at the start of a file of PyTorch before 1.6; the fourth is the content
_PROTOCOL = 2  # of pickles that torch writes and reads
_NO_COLLECTIONS = {"GLOBAL", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD"}


class UnsafeFileError(ValueError):
    """A file holds more than tensors and plain data; the message follows the file's name in a sentence."""


def check_file(path: Path, allowed: Collection[str] = ()) -> None:
    """Refuse a file that is not whole, or holds more than tensors and plain data; nothing in it is loaded.

    ``allowed`` are full names of further classes and functions that it may refer to.

    Raises:
        UnsafeFileError: If it refers to others, is compressed or claims more bytes than it has.
        Exception: One of :data:`UNREADABLE`, if it is damaged.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(_LEGACY_PICKLES):
                check_pickle(file, allowed)
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise UnsafeFileError("it is compressed, and PyTorch never compresses its files")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise UnsafeFileError("its parts claim more bytes than the file has")
        pickles = [part for part in parts if part.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UnsafeFileError("it is a zip archive that PyTorch did not write")
        check_pickle(archive.read(pickles[0]), allowed)
        if (damaged := archive.testzip()) is not None:  # torch does not compare checksums
            raise zipfile.BadZipFile(f"its part {damaged!r} is damaged")


def check_pickle(content: bytes | IO[bytes], allowed: Collection[str] = ()) -> None:
    """Refuse a pickle that refers to more than :data:`PLAIN` and ``allowed``, or repeats collections too often.

    An open file is read up to the end of the pickle.

    Raises:
        UnsafeFileError: If it does.
        Exception: One of :data:`UNREADABLE`, if it is damaged.
    """
    collections, shared, is_collection = set(), 0, False
    for opcode, argument, _ in genops(content):
        if opcode.proto > _PROTOCOL:
            raise UnsafeFileError("it uses a newer pickle protocol than PyTorch")
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".")
            if name not in allowed and not PLAIN.fullmatch(name):
                raise UnsafeFileError(f"it holds Python objects (first: {name!r}), as an exported model does")
        if opcode.name.endswith("GET"):
            is_collection = argument in collections
            shared += is_collection
            if shared > MAX_SHARED:
                raise UnsafeFileError("it refers to the same collections more often than any training does")
        elif not opcode.name.endswith("PUT"):
            is_collection = opcode.name not in _NO_COLLECTIONS
        elif is_collection:
            collections.add(argument)


def load_mapped(path: Path) -> Any:  # noqa: ANN401  # whatever was saved
    """Load a zip file of ``torch.save`` that passed :func:`check_file`; tensors are memory-mapped.

    Raises:
        Exception: One of :data:`UNREADABLE`, if it cannot be read.
    """
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def find_unstored(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that is not a plain array, or is not stored in full."""
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized)
        if not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
            return name
    return None
