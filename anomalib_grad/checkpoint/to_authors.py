# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of :class:`~anomalib_grad.Grad` to the authors' tensor names."""

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_grad.backbone.frozen import is_faithful
from anomalib_grad.files.atomic import writing
from anomalib_grad.files.faults import CONFIGURATION
from anomalib_grad.lightning_model import Grad
from anomalib_grad.torch_model import GradModel
from anomalib_grad.training.mse_threshold import AUTHORS_MSE_THRESHOLD

from .authors_file import BACKBONE, HEAD, PREFIX, AuthorsCheckpointError, load_plain
from .authors_model import AUTHORS_BACKBONE, MSE_THRESHOLD, TIMM
from .keys import backbone_to_authors_key, last_block_of_layer, to_authors_key

_EXPECTED = "a checkpoint of Grad is expected"
_AUTHORS_CONSTANTS = {
    "faithful_padding": True,
    "smoothing_window": 21,
    "score_window": 32,
    "whitening": False,
    "scaled": False,
}
_AUTHORS_DIMS = 2


def to_authors(source: str | Path, target: str | Path) -> list[str]:
    """Write head and backbone of a ``Grad`` checkpoint under the authors' names; the values are bit-identical.

    The result holds tensors and plain dictionaries, so it can be read without the authors' or this package's classes.
    It lacks optimiser state, best metric, and the backbone's stages behind its last feature map.

    Args:
        source: Checkpoint of ``Grad``.
        target: File to write, whole or not at all.

    Returns:
        Sentences on how the authors' code would treat this model differently; empty for their defaults.

    Raises:
        AuthorsCheckpointError: If ``source`` is not a checkpoint of ``Grad``, or its model was never trained.
        OSError: If ``target`` cannot be written.
    """
    source = Path(source)
    with writing(target) as unfinished:
        content = load_plain(source, _EXPECTED)
        if CONFIGURATION not in content:
            raise AuthorsCheckpointError(f"{str(source)!r} contains no configuration of Grad; {_EXPECTED}.")
        model = Grad.load_from_checkpoint(source, map_location="cpu").model
        if math.isnan(model.head.mse_threshold.item()):
            raise AuthorsCheckpointError(f"the model in {str(source)!r} was never trained; train it first.")
        torch.save(
            {"epoch": content.get("epoch", 0), "arch": describe(model), "state_dict": authors_state(model)}, unfinished
        )
    return differences(model)


def authors_state(model: GradModel) -> OrderedDict[str, Tensor]:
    """Return a model's tensors under the authors' names, prefixes included."""
    keep_names = not _is_authors_backbone(model)
    backbone = model.backbone.network.state_dict()
    state = OrderedDict(
        (f"{PREFIX}{BACKBONE}{key if keep_names else backbone_to_authors_key(key)}", tensor)
        for key, tensor in backbone.items()
    )
    for key, tensor in model.head.state_dict().items():
        if key != MSE_THRESHOLD:
            state[f"{PREFIX}{HEAD}{to_authors_key(key)}"] = tensor
    return state


def describe(model: GradModel) -> list[dict[str, Any]]:
    """Describe a model in the authors' format; settings unknown to their code have this package's names."""
    configuration, head, maps = model.configuration, model.head, model.backbone.maps
    layers, strides = model.backbone.layers, [feature_map.stride for feature_map in maps]
    if _is_authors_backbone(model):
        backbone: dict[str, Any] = {
            "outblocks": [last_block_of_layer(layer) for layer in layers],
            "outstrides": strides,
        }
    else:
        backbone = {"layers": layers}
    reconstruction = {
        "local_resol": _one(configuration["local_resolution"]),
        "global_resol": _one(configuration["global_resolution"]),
        "layers": configuration["num_blocks"],
        "mse_lamb": head.indicator_weight,
        "cos_lamb": head.cosine_weight,
        "noise_std": head.local_representation.jitter_std,
        "inplanes": [model.backbone.channels],
        "feature_size": list(model.backbone.feature_size),
        MSE_THRESHOLD: head.mse_threshold.item(),
    }
    return [
        {
            "name": "backbone",
            "type": AUTHORS_BACKBONE if _is_authors_backbone(model) else f"{TIMM}{configuration['backbone']}",
            "kwargs": {**backbone, "image_size": configuration["image_size"]},
        },
        {"name": "neck", "kwargs": {"instrides": strides, "outstrides": [min(strides)]}},
        {"name": "reconstruction", "kwargs": reconstruction},
    ]


def differences(model: GradModel) -> list[str]:
    """Return sentences on how the authors' code, whose constants are fixed, would treat a model differently."""
    configuration = model.configuration
    found = [
        f"{name} is {configuration[name]} here and fixed at {theirs} there."
        for name, theirs in _AUTHORS_CONSTANTS.items()
        if configuration[name] != theirs and (name != "faithful_padding" or is_faithful(configuration["backbone"]))
    ]
    threshold = model.head.mse_threshold.item()
    if threshold != AUTHORS_MSE_THRESHOLD:
        found.append(f"{MSE_THRESHOLD} is {threshold:.4g} here and fixed at {AUTHORS_MSE_THRESHOLD:g} there.")
    for name in ("local_resolution", "global_resolution"):
        resolution = configuration[name]
        if len(resolution) != _AUTHORS_DIMS or len(set(resolution)) != 1:
            found.append(f"{name} is {resolution} here; their grids are square with {_AUTHORS_DIMS} dimensions.")
    if not _is_authors_backbone(model):
        found.append(f"the backbone is {configuration['backbone']!r} here and EfficientNet-B4 there.")
    return found


def _is_authors_backbone(model: GradModel) -> bool:
    return is_faithful(model.configuration["backbone"])


def _one(resolution: list[int]) -> int | list[int]:
    return resolution[0] if len(set(resolution)) == 1 else resolution
