# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Model in an authors' file: head from the tensors' shapes; backbone, layers and image size from the configuration."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_grad.backbone.frozen import DEFAULT_BACKBONE, is_faithful
from anomalib_grad.components.head import GradHead
from anomalib_grad.components.representation import FUSIONS
from anomalib_grad.files.arguments import is_oversized
from anomalib_grad.training.mse_threshold import AUTHORS_MSE_THRESHOLD

from .authors_file import AuthorsCheckpointError, AuthorsFile, check_tensors, read_authors_file
from .keys import from_authors_key, layer_of_block

_LOCAL_CELLS = "local_representation.grid.cells"
_GLOBAL_CELLS = "global_representation.grid.cells"
_FEWEST_GRID_AXES = 3  # (1, C, cells)

MSE_THRESHOLD = "mse_threshold"
"""Our name of the indicator's threshold ``k``; only this package's files record it, in the authors' code it is 10."""
_SETTINGS = {
    "mse_lamb": "indicator_weight",
    "cos_lamb": "cosine_weight",
    "noise_std": "jitter_std",
    MSE_THRESHOLD: MSE_THRESHOLD,
}
"""The authors' name of a setting -> ours; other settings follow from the tensors' shapes."""

AUTHORS_BACKBONE = "models.backbones.efficientnet_b4"
TIMM = "timm."
"""Prefix of the backbone type in files that this package writes for backbones other than the authors'."""
_DEFAULT_STRIDE, _MOST_STRIDE = 8, 64


def load_authors_head(path: str | Path, feature_size: tuple[int, int] | None = None) -> GradHead:
    """Load the head of an authors' checkpoint.

    Args:
        path: Their ``.pth.tar`` file.
        feature_size: Height and width of the feature maps; ``None`` takes the file's, or assumes a square.

    Returns:
        The head in eval mode, which maps features ``(B, C, H, W)`` as the authors' model does.

    Raises:
        AuthorsCheckpointError: If the file is not theirs, or its tensors are inconsistent.

    Example:
        >>> head = load_authors_head("ckpt_best.pth.tar")  # doctest: +SKIP
        >>> refined, similarity = head(features)  # doctest: +SKIP
    """
    file = read_authors_file(path)
    arguments = recognise_head(file, feature_size)
    head = GradHead(**arguments)
    head.load_state_dict(head_state(file, arguments))
    return head.eval()


def recognise_head(file: AuthorsFile, feature_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Infer the arguments of ``GradHead`` from a file, and check every tensor against them.

    Args:
        file: An authors' file.
        feature_size: Height and width of the feature maps; ``None`` takes the file's, or assumes a square.

    Returns:
        Constructor arguments, plain data.

    Raises:
        AuthorsCheckpointError: If the tensors are not those of a GRAD head, or do not fit ``feature_size``.
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
            f"whose global grid has {global_cells.shape[1]} values per cell; give the image size it was trained with."
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
    with torch.device("meta"):  # shapes only, no memory for a file that does not fit
        expected = GradHead(**arguments).state_dict()
    del expected[MSE_THRESHOLD]
    check_tensors(file.path, f"the head ({arguments['num_blocks']} {arguments['fusion']!r} blocks)", tensors, expected)
    return arguments


def head_state(file: AuthorsFile, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the file's tensors as a state dict of the head built with ``arguments``."""
    return {**_translate(file), MSE_THRESHOLD: torch.tensor(arguments[MSE_THRESHOLD])}


def _translate(file: AuthorsFile) -> dict[str, Tensor]:
    translated = {key: from_authors_key(key) for key in file.head}
    foreign = [key for key, ours in translated.items() if ours is None]
    if foreign:
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} belongs to a method other than GRAD or CRAD: {len(foreign)} of its {len(translated)} "
            f"'reconstruction' tensors are unknown (first: {foreign[0]!r})."
        )
    return {ours: file.head[key] for key, ours in translated.items() if ours is not None}


def _fusion(tensors: Mapping[str, Tensor], channels: int) -> dict[str, Any]:
    """Infer kind, number of blocks and hidden channels; ``None`` for the hidden channels of a published kind."""
    blocks = {int(key.split(".")[2]) for key in tensors if key.startswith("fusion.blocks.")}
    expansion = tensors.get("fusion.blocks.0.layers.0.weight")
    hidden = None if expansion is None else expansion.shape[0]
    published = {kind.hidden_factor * channels: name for name, kind in FUSIONS.items() if kind.hidden_factor}
    name, hidden = (published[hidden], None) if hidden in published else ("mobile", hidden)
    if any(key.startswith("fusion.blocks.") and ".conv1." in key for key in tensors):
        name, hidden = "residual", None
    return {"fusion": name, "num_blocks": len(blocks), "hidden_channels": hidden}


def _feature_size(file: AuthorsFile, channels: int, values: int) -> tuple[int, int]:
    """Return height and width of the feature maps from the file's configuration, or assume a square."""
    noted = _integers(file.settings("reconstruction").get("feature_size"))
    if len(noted) == 2:  # noqa: PLR2004  # height and width
        return noted[0], noted[1]
    side = math.isqrt(values // channels)
    if side * side * channels != values:
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} does not record height and width of its feature maps; give the size of its images "
            f"with --image-size HEIGHT WIDTH."
        )
    return side, side


def _settings(file: AuthorsFile) -> dict[str, float]:
    """Return the method's constants that the file records."""
    noted = file.settings("reconstruction")
    found = {name: noted[name] for name in _SETTINGS if name in noted}
    for name, value in found.items():
        if not isinstance(value, int | float) or abs(value) > sys.float_info.max:
            raise AuthorsCheckpointError(
                f"{str(file.path)!r} records {name} = {value!r}, which is not a finite number."
            )
    return {_SETTINGS[name]: float(value) for name, value in found.items()}


def noted_backbone(file: AuthorsFile) -> str | None:
    """Return the timm name of the backbone that a file was trained with; ``None`` if missing or not known here.

    A file without a configuration, but with EfficientNet's tensor names, is assumed to have EfficientNet-B4.

    Raises:
        AuthorsCheckpointError: If the named backbone is far larger than the file.
    """
    kind = _kind(file)
    if has_timm_names(file):
        name = str(kind).removeprefix(TIMM)
        if is_oversized(name, file.path.stat().st_size):
            raise AuthorsCheckpointError(
                f"{str(file.path)!r} records backbone {name!r}, which is far larger than the file; name the backbone "
                f"that it was trained with by --backbone (timm's name)."
            )
        return name
    is_b4 = "_conv_stem.weight" in file.backbone if kind is None else kind == AUTHORS_BACKBONE
    return DEFAULT_BACKBONE if is_b4 else None


def has_timm_names(file: AuthorsFile) -> bool:
    """Return whether a file names a timm backbone, as this package's files do; its tensors then have timm's names."""
    return str(_kind(file)).startswith(TIMM)


def noted_layers(file: AuthorsFile, backbone: str) -> list[str] | None:
    """Return the names of the feature maps that a file was trained with; ``None`` for the backbone's defaults.

    Raises:
        AuthorsCheckpointError: If the file takes or joins feature maps in a way that this package does not support.
    """
    settings, neck = file.settings("backbone"), file.settings("neck")
    strides, joined_at = _integers(neck.get("instrides")), _integers(neck.get("outstrides"))
    if strides and joined_at and joined_at != [min(strides)]:
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} joins feature maps of strides {strides} at stride {joined_at}; "
            f"only models that join them at the finest stride can be converted."
        )
    if _kind(file) == f"{TIMM}{backbone}":
        noted = settings.get("layers")
        return [str(layer) for layer in noted] if isinstance(noted, list | tuple) else None
    blocks = _integers(settings.get("outblocks"))
    if not blocks or not is_faithful(backbone):
        return None
    layers = [layer for block in blocks if (layer := layer_of_block(block))]
    if len(layers) != len(blocks) or blocks != sorted(set(blocks)):
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} takes features after blocks {blocks} of EfficientNet-B4; "
            f"only last blocks of stages (1, 5, 9, 15, 21, 29, 31) in ascending order can be converted."
        )
    return layers


def noted_image_size(file: AuthorsFile, feature_size: tuple[int, int]) -> tuple[int, int]:
    """Return the image size of a file in pixels: the recorded one, or the feature maps' size times their stride.

    Raises:
        AuthorsCheckpointError: If the recorded size is too large for feature maps of that size with any backbone.
    """
    noted = _integers(file.settings("backbone").get("image_size"))
    if len(noted) == 2:  # noqa: PLR2004  # height and width
        if any(side > _MOST_STRIDE * cells for side, cells in zip(noted, feature_size, strict=True)):
            raise AuthorsCheckpointError(
                f"{str(file.path)!r} records images of {noted[0]} x {noted[1]} pixels, too large for its feature maps "
                f"of {feature_size[0]} x {feature_size[1]}; give their size with --image-size HEIGHT WIDTH."
            )
        return noted[0], noted[1]
    stride = (_integers(file.settings("neck").get("outstrides")) or [_DEFAULT_STRIDE])[0]
    return feature_size[0] * stride, feature_size[1] * stride


def _kind(file: AuthorsFile) -> object:
    return file.architecture.get("backbone", {}).get("type")


def _integers(value: object) -> list[int]:
    """Return ``value`` as a list if it contains only integers, else an empty list."""
    if isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
        return list(value)
    return []
