# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Read the files that the authors' trainer saves.

They hold the configuration as ``easydict.EasyDict`` and the best metric as a NumPy scalar. PyTorch's restricted
unpickler reads both once the class has a stand-in, so that package is neither needed nor run.
"""

import codecs
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from anomalib_grad.files.torch_files import find_unstored

from .archive import AuthorsCheckpointError, load_plain

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
"""How the authors' names start: all of them, the head's, the backbone's."""


@dataclass(frozen=True)
class AuthorsFile:
    """What a file of the authors' trainer holds.

    Attributes:
        path: The file.
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
        """Give the constructor arguments that the file notes for a part; empty if it notes none."""
        settings = self.architecture.get(part, {}).get("kwargs", {})
        return settings if isinstance(settings, Mapping) else {}


def read_authors_file(path: str | Path) -> AuthorsFile:
    """Read a checkpoint of the authors' trainer; nothing in it is executed.

    Args:
        path: Their ``.pth.tar`` file, or a file with their state dict alone.

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
            f"{str(path)!r} holds the weights of another network ({len(tensors)} tensors, first: "
            f"{next(iter(tensors))!r}); the authors' have names that start with '{PREFIX}{HEAD}'."
        )
    noted = content.get("arch")  # a file without the configuration, or with another kind of it, has none
    parts = [part for part in noted if isinstance(part, Mapping)] if isinstance(noted, list | tuple) else []
    architecture = {part["name"]: part for part in parts if isinstance(part.get("name"), str)}
    return AuthorsFile(path, head, backbone, architecture)


def _state_dict(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """Find the tensors: under ``state_dict``, or the whole file."""
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not state:
        raise AuthorsCheckpointError(f"{str(path)!r} holds no tensors under 'state_dict'; {_EXPECTED}.")
    other = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if other:
        raise AuthorsCheckpointError(
            f"{str(path)!r} holds other things than tensors (first: {other[0]!r}, of type "
            f"{type(state[other[0]]).__name__}); {_EXPECTED}."
        )
    unstored = find_unstored(state) or next((key for key, tensor in state.items() if not tensor.numel()), None)
    if unstored is not None:
        raise AuthorsCheckpointError(
            f"{str(path)!r} is damaged: its tensor {unstored!r} of shape {tuple(state[unstored].shape)} is not stored "
            f"in full."
        )
    return state
