# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that a checkpoint brings, refused before a model of them is built.

Grad's are plain values. Lightning also takes a function to call with them, ``_instantiator``; the only one that it
trusts makes an object of any class, and calls any function, that an argument names. anomalib never writes it.
"""

import math
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import timm
import torch

ARGUMENTS = ("hparams", "module_arguments", "hyper_parameters")
"""Where Lightning finds arguments; the last ones win, and the first two are of versions before 1.0."""
CALLABLES = ("_instantiator", "_class_path")
LEAST_BYTES = {
    "local_resolution": 1,
    "global_resolution": 1,
    "feature_size": 64,
    "image_size": 1,
    "num_blocks": 1,
    "hidden_channels": 64,
}
"""Arguments, and how many bytes each unit of their product takes in a checkpoint, at the least: 16 channels of 16 bits
in 2 cells or layers."""
MOST_CUT_OFF = 64
"""How many times larger than the file a backbone may be before unused stages are cut off: 20 in mobilenetv3_small_050,
40 where the file is in half precision."""


def find_fault_of_arguments(content: Mapping[str, Any], size: int) -> str | None:
    """Look for a reason not to build a model with the arguments in a checkpoint of ``size`` bytes.

    What it has of :data:`ARGUMENTS` are dictionaries. The fault follows the file's name in a sentence.
    """
    arguments = {name: value for key in ARGUMENTS for name, value in (content.get(key) or {}).items()}
    called = next((name for name in CALLABLES if name in arguments), None)
    if called is not None:
        return f"it asks for {arguments[called]!r} to be called, which could do anything"
    strange = next((name for name, value in arguments.items() if not is_plain(value)), None)
    if strange is not None:
        return f"its argument {strange!r} is no plain value"
    groups = {name: value for group in arguments.values() if isinstance(group, dict) for name, value in group.items()}
    sizes = groups | arguments
    for name, stored in LEAST_BYTES.items():
        dims = sizes.get(name.replace("resolution", "dims"), 2) if name.endswith("resolution") else 1
        if _product(sizes.get(name), dims) * stored > size:
            return f"it holds no model of the size that its {name} calls for"
    if is_oversized(arguments.get("backbone"), size):
        return "it holds no model of the size that its backbone calls for"
    return None


def find_fault_of_transform(settings: Mapping[str, Any], size: int) -> str | None:
    """Look for a transform that makes images larger than any that the model in a checkpoint could have been made for.

    Args:
        settings: The pre-processor's, in plain data.
        size: Bytes of the checkpoint, whose global grid has more of them than an image has pixels.
    """
    for name, value in _numbers(settings):
        if name in {"size", "max_size"} and value < 1:  # what transforms call a height, a width or both
            return "its pre-processor makes images of no size"
        if not value * value <= size:
            return "its pre-processor makes images of more pixels than its model could have been made for"
    return None


def _numbers(settings: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Walk through the numbers in nested dictionaries and lists, with the last name above each."""
    if isinstance(settings, dict | list | tuple):
        for key, value in settings.items() if isinstance(settings, dict) else [(name, part) for part in settings]:
            yield from _numbers(value, str(key))
    elif isinstance(settings, int | float):
        yield name, settings


def is_plain(value: object) -> bool:
    """Tell whether a value is a number, a text, a path, a named constant, nothing, or a collection of such."""
    if type(value) in {dict, list, tuple}:
        return all(map(is_plain, [*value, *value.values()] if isinstance(value, dict) else value))  # type: ignore[call-overload]
    return value is None or isinstance(value, bool | int | float | str | PurePath | Enum)


def is_oversized(backbone: object, size: int) -> bool:
    """Tell whether a timm network takes far more bytes than the file; unknown ones are left to the constructor."""
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        return False
    with torch.device("meta"):
        network = timm.create_model(backbone, pretrained=False)
    return sum(parameter.nbytes for parameter in network.parameters()) > MOST_CUT_OFF * size


def _product(value: object, dims: object) -> float:
    """Product of a list's numbers, or the power of one; 0 for what is neither, infinite beyond all sizes."""
    if isinstance(value, int | float) and isinstance(dims, int):
        value = [value] * min(dims, 64)
    if not isinstance(value, list | tuple) or not all(isinstance(side, int | float) for side in value):
        return 0
    try:
        return math.prod(map(float, value))
    except OverflowError:
        return math.inf
