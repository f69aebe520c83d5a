# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Reader for the files of the authors' trainer, with checks of their tensors and clear errors for other files.

The files hold the configuration as ``easydict.EasyDict`` and the best metric as a NumPy scalar. PyTorch's restricted
unpickler reads both, given a stand-in for the class: easydict is neither installed nor executed.
"""

import codecs
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

from anomalib_grad.files.torch_files import UNREADABLE, check_file, find_unstored, load_mapped

_numpy_scalar: Any = np.float64(0).__reduce__()[0]
_ALLOWED = {
    "easydict.EasyDict": OrderedDict,
    "numpy.core.multiarray.scalar": _numpy_scalar,  # as NumPy 1 spells it
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": np.dtype,
    "numpy.dtypes.Float32DType": np.dtypes.Float32DType,
    "numpy.dtypes.Float64DType": np.dtypes.Float64DType,
    "_codecs.encode": codecs.encode,
}
_EXPECTED = "a checkpoint of the authors' trainer is expected"

PREFIX, HEAD, BACKBONE = "module.", "reconstruction.", "backbone."
"""Prefixes of the authors' names: of all names, then of the head's and the backbone's."""


class AuthorsCheckpointError(ValueError):
    """A file is not the expected checkpoint, or cannot be converted as requested."""


@dataclass(frozen=True)
class AuthorsFile:
    """Content of a file of the authors' trainer.

    Attributes:
        path: Path of the file.
        head: Tensors of the head under the authors' names, without ``module.reconstruction.``.
        backbone: Tensors of the backbone under the authors' names, without ``module.backbone.``; may be incomplete.
        architecture: ``name -> configuration`` of the file's parts (``backbone``, ``neck``, ``reconstruction``); empty
            if the file holds tensors only.
    """

    path: Path
    head: dict[str, Tensor]
    backbone: dict[str, Tensor] = field(default_factory=dict)
    architecture: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def settings(self, part: str) -> Mapping[str, Any]:
        """Return the constructor arguments recorded for a part; empty if there are none."""
        settings = self.architecture.get(part, {}).get("kwargs", {})
        return settings if isinstance(settings, Mapping) else {}


def read_authors_file(path: str | Path) -> AuthorsFile:
    """Read a checkpoint of the authors' trainer, without executing anything in it.

    Args:
        path: Their ``.pth.tar`` file, or a file with only their state dict.

    Returns:
        The tensors on the CPU, and the configuration as plain data.

    Raises:
        AuthorsCheckpointError: If the file is anything else; the message names what was found.
    """
    path = Path(path)
    content = load_plain(path, _EXPECTED, _ALLOWED)
    if "pytorch-lightning_version" in content:
        raise AuthorsCheckpointError(
            f"{str(path)!r} is a checkpoint of Lightning or anomalib and needs no conversion; {_EXPECTED}."
        )
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in _state_dict(path, content).items()}
    head = {key.removeprefix(HEAD): tensor for key, tensor in tensors.items() if key.startswith(HEAD)}
    backbone = {key.removeprefix(BACKBONE): tensor for key, tensor in tensors.items() if key.startswith(BACKBONE)}
    if not head:
        raise AuthorsCheckpointError(
            f"{str(path)!r} contains the weights of another network ({len(tensors)} tensors, first: "
            f"{next(iter(tensors))!r}); names of the authors' tensors start with '{PREFIX}{HEAD}'."
        )
    noted = content.get("arch")  # may be missing, or of another type
    parts = [part for part in noted if isinstance(part, Mapping)] if isinstance(noted, list | tuple) else []
    architecture = {part["name"]: part for part in parts if isinstance(part.get("name"), str)}
    return AuthorsFile(path, head, backbone, architecture)


def _state_dict(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors under ``state_dict``, or the whole content if there is no such key."""
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not state:
        raise AuthorsCheckpointError(f"{str(path)!r} contains no tensors under 'state_dict'; {_EXPECTED}.")
    other = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if other:
        raise AuthorsCheckpointError(
            f"{str(path)!r} contains values that are not tensors (first: {other[0]!r}, of type "
            f"{type(state[other[0]]).__name__}); {_EXPECTED}."
        )
    unstored = find_unstored(state) or next((key for key, tensor in state.items() if not tensor.numel()), None)
    if unstored is not None:
        raise AuthorsCheckpointError(
            f"{str(path)!r} is damaged: its tensor {unstored!r} of shape {tuple(state[unstored].shape)} is not stored "
            f"in full."
        )
    return state


def load_plain(path: Path, expected: str, allowed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read an uncompressed PyTorch archive that holds a dictionary of tensors and plain data.

    Args:
        path: Path of the file.
        expected: End of error messages, which says what file is expected.
        allowed: Further classes and functions that the file may refer to, by their full names in the file.

    Returns:
        The dictionary, with tensors on the CPU.

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
        raise AuthorsCheckpointError(f"{str(path)!r} contains a {type(content).__name__}; {expected}.")
    return content


def _sniff(path: Path) -> str:
    """Describe a file that is not a zip archive."""
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
    return f"is not a PyTorch file (it starts with the bytes {start[:4].hex(' ')})"


def check_tensors(path: Path, part: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a network cannot load unchanged.

    Args:
        path: File that the tensors come from, for the message.
        part: Name of the part that the tensors belong to, for the message.
        tensors: The tensors, under this package's names.
        expected: State dict of the network; it may be on the ``meta`` device, as only names, shapes and types are read.

    Raises:
        AuthorsCheckpointError: If names, shapes or types differ, or a value is not finite.
    """
    missing, surplus = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or surplus:
        what = f"lacks the tensor {min(missing)!r}" if missing else f"has an unexpected tensor {min(surplus)!r}"
        raise AuthorsCheckpointError(
            f"{part} in {str(path)!r} {what} (this package's name): the file is incomplete or was changed."
        )
    for key, tensor in tensors.items():
        like = expected[key]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise AuthorsCheckpointError(
                f"{part} in {str(path)!r} has {key!r} (this package's name) as {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}; its other tensors require {like.dtype} of shape {tuple(like.shape)}."
            )
        if not torch.isfinite(tensor).all():
            raise AuthorsCheckpointError(f"{part} in {str(path)!r} has values in {key!r} that are not finite.")
