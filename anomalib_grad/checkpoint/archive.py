# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Open files of ``torch.save`` without running any code that they bring along, and say what other files are."""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from anomalib_grad.files import torch_files


class AuthorsCheckpointError(ValueError):
    """A file is not the checkpoint that is to be converted, or cannot be converted as asked."""


def check_archive(path: Path, expected: str) -> bytes:
    """Refuse what is not an uncompressed archive of PyTorch.

    Args:
        path: The file.
        expected: End of the error's sentence, which says what should be there.

    Returns:
        The archive's pickle, unread.

    Raises:
        AuthorsCheckpointError: If the file is anything else; the message names what was found.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise AuthorsCheckpointError(f"{str(path)!r} {found}; {expected}.")
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise AuthorsCheckpointError(f"{str(path)!r} is a zip archive without PyTorch's data; {expected}.")
            torch_files.check_archive(path)
            torch_files.check_sums(path)
            return archive.read(pickles[0])
    except torch_files.ExcessError as error:
        raise AuthorsCheckpointError(f"{str(path)!r} cannot be read ({error}); {expected}.") from error
    except zipfile.BadZipFile as error:
        raise AuthorsCheckpointError(f"{str(path)!r} {_sniff(path)}; {expected}.") from error


def load_plain(path: Path, device: str, expected: str, allowed: Sequence[Any] = ()) -> dict[str, Any]:
    """Unpickle with PyTorch's restricted unpickler.

    Args:
        path: File that passed :func:`check_archive`.
        device: Where tensors go; ``meta`` reads their shapes alone.
        expected: End of the error's sentence, which says what should be there.
        allowed: Classes and functions that the file may refer to besides those of tensors.

    Raises:
        AuthorsCheckpointError: If the file refers to others, cannot be read, or holds no dictionary.
    """
    with safe_globals(list(allowed)):
        try:
            foreign = get_unsafe_globals_in_checkpoint(path)
            content = None if foreign else torch.load(path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, EOFError, LookupError, OSError) as error:
            cause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise AuthorsCheckpointError(f"{str(path)!r} cannot be read ({cause}); {expected}.") from error
    if foreign:
        raise AuthorsCheckpointError(
            f"{str(path)!r} refers to {', '.join(map(repr, foreign[:3]))}, which such checkpoints do not contain, and "
            f"was not opened; {expected}."
        )
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
