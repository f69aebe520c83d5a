# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The head in an authors' file: its configuration from the tensors' shapes, then the head itself."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_grad.components import FUSIONS
from anomalib_grad.components.head import GradHead
from anomalib_grad.training.mse_threshold import AUTHORS_MSE_THRESHOLD

from .archive import AuthorsCheckpointError, check_tensors
from .authors_file import AuthorsFile, read_authors_file
from .keys import from_authors_key

_LOCAL_CELLS = "local_representation.grid.cells"
_GLOBAL_CELLS = "global_representation.grid.cells"
_FEWEST_GRID_AXES = 3  # (1, C, cells)

# the authors' name of a setting -> ours; the tensors' shapes say the rest
_SETTINGS = {"mse_lamb": "indicator_weight", "cos_lamb": "cosine_weight", "noise_std": "jitter_std"}
MSE_THRESHOLD = "mse_threshold"
"""Our name of the indicator's threshold; only files written by this package note one, the authors' code knows 10."""


def load_authors_head(path: str | Path, feature_size: tuple[int, int] | None = None) -> GradHead:
    """Load the head of an authors' checkpoint.

    Args:
        path: Their ``.pth.tar`` file.
        feature_size: Height and width of the feature maps; ``None`` takes the file's, or a square.

    Returns:
        The head in eval mode, which maps features ``(B, C, H, W)`` as the authors' model does.

    Raises:
        AuthorsCheckpointError: If the file is not theirs, or its tensors do not fit together.

    Example:
        >>> head = load_authors_head("ckpt_best.pth.tar")  # doctest: +SKIP
        >>> refined = head(features)  # doctest: +SKIP
    """
    file = read_authors_file(path)
    arguments = recognise_head(file, feature_size)
    head = GradHead(**arguments)
    head.load_state_dict(head_state(file, arguments))
    return head.eval()


def recognise_head(file: AuthorsFile, feature_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Find the arguments of ``GradHead`` that fit a file, and hold every tensor to them.

    Args:
        file: An authors' file.
        feature_size: Height and width of the feature maps; ``None`` takes the file's, or a square.

    Returns:
        Constructor arguments, plain data.

    Raises:
        AuthorsCheckpointError: If the tensors are not those of a GRAD head.
    """
    tensors = _translate(file)
    local_cells, global_cells = tensors.get(_LOCAL_CELLS), tensors.get(_GLOBAL_CELLS)
    if local_cells is None or global_cells is None or min(local_cells.ndim, global_cells.ndim) < _FEWEST_GRID_AXES:
        raise AuthorsCheckpointError(f"{str(file.path)!r} has no local and global grid ('query.0', 'query.1').")
    channels = local_cells.shape[1]
    height, width = feature_size or _feature_size(file, channels, global_cells.shape[1])
    if min(height, width) < 1 or channels * height * width != global_cells.shape[1]:
        raise AuthorsCheckpointError(
            f"feature maps of {channels} channels and {height} x {width} do not fit the head in {str(file.path)!r}, "
            f"whose global grid holds {global_cells.shape[1]} values a cell; give the image size it was trained with."
        )
    arguments = {
        "channels": channels,
        "feature_size": (height, width),
        **_fusion(tensors, channels),
        "local_resolution": list(local_cells.shape[2:]),
        "local_dims": local_cells.ndim - 2,
        "global_resolution": list(global_cells.shape[2:]),
        "global_dims": global_cells.ndim - 2,
        MSE_THRESHOLD: AUTHORS_MSE_THRESHOLD,
        **_settings(file),
    }
    with torch.device("meta"):  # shapes only: nothing is allocated for a file that does not fit
        expected = GradHead(**arguments).state_dict()
    del expected[MSE_THRESHOLD]
    check_tensors(file.path, f"the head ({arguments['num_blocks']} {arguments['fusion']!r} blocks)", tensors, expected)
    return arguments


def head_state(file: AuthorsFile, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the state dict of the head that ``arguments`` build, from the file's tensors."""
    return {**_translate(file), MSE_THRESHOLD: torch.tensor(arguments[MSE_THRESHOLD])}


def _translate(file: AuthorsFile) -> dict[str, Tensor]:
    translated = {key: from_authors_key(key) for key in file.head}
    foreign = [key for key, ours in translated.items() if ours is None]
    if foreign:
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} holds another method than GRAD or CRAD: {len(foreign)} of its {len(translated)} "
            f"'reconstruction' tensors are unknown (first: {foreign[0]!r})."
        )
    return {ours: file.head[key] for key, ours in translated.items() if ours is not None}


def _fusion(tensors: Mapping[str, Tensor], channels: int) -> dict[str, Any]:
    """Recognise kind, number of blocks and hidden channels; a published width is left to the kind."""
    blocks = {int(key.split(".")[2]) for key in tensors if key.startswith("fusion.blocks.")}
    if any(key.startswith("fusion.blocks.") and ".conv1." in key for key in tensors):
        return {"fusion": "residual", "num_blocks": len(blocks), "hidden_channels": None}
    expansion = tensors.get("fusion.blocks.0.layers.0.weight")
    hidden = None if expansion is None else expansion.shape[0]
    published = {kind.hidden_factor * channels: name for name, kind in FUSIONS.items() if kind.hidden_factor}
    if hidden is None or hidden in published:
        name = "mobile" if hidden is None else published[hidden]
        return {"fusion": name, "num_blocks": len(blocks), "hidden_channels": None}
    return {"fusion": "mobile", "num_blocks": len(blocks), "hidden_channels": hidden}


def _feature_size(file: AuthorsFile, channels: int, values: int) -> tuple[int, int]:
    """Find height and width of the feature maps from the file's configuration, else as a square."""
    noted = file.settings("reconstruction").get("feature_size")
    if isinstance(noted, Sequence) and len(noted) == 2 and all(isinstance(side, int) for side in noted):  # noqa: PLR2004
        return noted[0], noted[1]
    side = math.isqrt(values // channels)
    if side * side * channels != values:
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} does not say how high and wide its feature maps are; name the size of its images with "
            f"--image-size HEIGHT WIDTH."
        )
    return side, side


def _settings(file: AuthorsFile) -> dict[str, float]:
    """Take over the constants that the file notes."""
    noted = file.settings("reconstruction")
    names = {**_SETTINGS, MSE_THRESHOLD: MSE_THRESHOLD}
    found = {name: noted[name] for name in names if name in noted}
    for name, value in found.items():
        if not isinstance(value, int | float) or abs(value) > sys.float_info.max:
            raise AuthorsCheckpointError(f"{str(file.path)!r} notes {name} = {value!r}, which is not a finite number.")
    return {names[name]: float(value) for name, value in found.items()}
