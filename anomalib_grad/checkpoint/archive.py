# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Open files of ``torch.save`` without running code of theirs, say what other files are, and check their tensors."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from anomalib_grad.files.torch_files import UNREADABLE, check_file, load_mapped


class AuthorsCheckpointError(ValueError):
    """A file is not the checkpoint that is to be converted, or cannot be converted as asked."""


def load_plain(path: Path, expected: str, allowed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read an uncompressed archive of PyTorch that holds a dictionary of tensors and plain data.

    Args:
        path: The file.
        expected: End of the error's sentence, which says what should be there.
        allowed: Classes and functions that the file may refer to besides, by their full names in it.

    Returns:
        Its content, with tensors on the CPU.

    Raises:
        AuthorsCheckpointError: If the file is anything else; the message names what was found.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise AuthorsCheckpointError(f"{str(path)!r} {found}; {expected}.")
    if not zipfile.is_zipfile(path):
        raise AuthorsCheckpointError(f"{str(path)!r} {_sniff(path)}; {expected}.")
    try:
        check_file(path, allowed or {})
        with safe_globals([(known, name) for name, known in (allowed or {}).items()]):
            content = load_mapped(path)
    except zipfile.BadZipFile as error:
        raise AuthorsCheckpointError(f"{str(path)!r} {_sniff(path)}; {expected}.") from error
    except UNREADABLE as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise AuthorsCheckpointError(f"{str(path)!r} cannot be read ({cause}); {expected}.") from error
    if not isinstance(content, dict):
        raise AuthorsCheckpointError(f"{str(path)!r} holds a {type(content).__name__}; {expected}.")
    return content


def _sniff(path: Path) -> str:
    """Say what a file that is no zip archive looks like."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "is empty"
    if start.startswith(b"PK"):
        return "is a damaged or incomplete archive, copy it again"
    if start.startswith(b"\x80"):
        return "is a bare pickle or a PyTorch file from before version 1.6, save it again with a newer PyTorch"
    text = start.decode("ascii", errors="ignore")
    if len(text) == len(start) and text.replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable():
        return f"is a text file that starts with {text.splitlines()[0][:24]!r}"
    return f"is no PyTorch file (it starts with the bytes {start[:4].hex(' ')})"


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
