# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the constructor arguments in a checkpoint, before a model is built with them.

Grad's arguments are plain values. Lightning also accepts a function to call with them, ``_instantiator``. The only one
it trusts creates any class and calls any function that an argument names. anomalib never writes it.
"""

import math
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import timm
import torch

ARGUMENTS = ("hparams", "module_arguments", "hyper_parameters")
"""Keys under which Lightning stores arguments. Later keys win; the first two are from versions before 1.0."""
CALLABLES = ("_instantiator", "_class_path")
MIN_BYTES = dict.fromkeys(("local_resolution", "global_resolution", "image_size", "num_blocks"), 1)
MIN_BYTES |= dict.fromkeys(("feature_size", "hidden_channels"), 64)
"""Lower bound on the bytes in a checkpoint for each unit of an argument (of the product, if it has several numbers). 64
bytes are 16 channels of 16 bits in 2 cells or layers."""
MAX_BACKBONE_TO_FILE = 64
"""How many times larger than the file a whole backbone may be, as unused stages are cut off. mobilenetv3_small_050
needs 20, and 40 if the file is in half precision."""


def find_fault_of_arguments(content: Mapping[str, Any], size: int) -> str | None:
    """Return a reason not to build a model with the arguments in a checkpoint, or ``None``.

    The fault is phrased to follow the file's name in a sentence.

    Args:
        content: The checkpoint; its entries of :data:`ARGUMENTS`, if present, are dictionaries.
        size: Size of the checkpoint in bytes.
    """
    arguments = {name: value for key in ARGUMENTS for name, value in (content.get(key) or {}).items()}
    for name, value in arguments.items():
        if name in CALLABLES:
            return f"it names a function to call, {value!r}, which could run any code"
        if not is_plain(value):
            return f"its argument {name!r} is not a plain value, such as a number or a string"
    groups = {name: value for group in arguments.values() if isinstance(group, dict) for name, value in group.items()}
    sizes = groups | arguments
    for name, stored in MIN_BYTES.items():
        dims = sizes.get(name.replace("resolution", "dims"), 2) if name.endswith("resolution") else 1
        if _product(sizes.get(name), dims) * stored > size:
            return f"its {name} asks for a larger model than the file can hold"
    if is_oversized(arguments.get("backbone"), size):
        return "its backbone asks for a larger model than the file can hold"
    return None


def find_fault_of_transform(settings: Mapping[str, Any], size: int) -> str | None:
    """Return a fault if a transform makes empty images, or larger ones than the model could have been built for.

    Args:
        settings: The pre-processor's settings as plain data.
        size: Size of the checkpoint in bytes. The global grid alone has more bytes than an image has pixels.
    """
    for name, value in _numbers(settings):
        if name in {"size", "max_size"} and value < 1:  # transforms' names of a height, a width or both
            return "its pre-processor makes images with a height or width below 1 pixel"
        if not value * value <= size:
            return "its pre-processor makes images with more pixels than its model can take"
    return None


def _numbers(settings: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested dictionaries and lists, each with the nearest key above it."""
    if isinstance(settings, dict | list | tuple):
        for key, value in settings.items() if isinstance(settings, dict) else [(name, part) for part in settings]:
            yield from _numbers(value, str(key))
    elif isinstance(settings, int | float):
        yield name, settings


def is_plain(value: object) -> bool:
    """Tell whether a value is a number, string, path, enum member, ``None``, or a collection of such values."""
    if type(value) is dict:
        value = [*value, *value.values()]
    if type(value) in {list, tuple}:
        return all(map(is_plain, value))  # type: ignore[call-overload]
    return value is None or isinstance(value, bool | int | float | str | PurePath | Enum)


def is_oversized(backbone: object, size: int) -> bool:
    """Tell whether a timm backbone is far larger than the file; unknown names are left to the constructor."""
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        return False
    with torch.device("meta"):
        network = timm.create_model(backbone, pretrained=False)
    return sum(parameter.nbytes for parameter in network.parameters()) > MAX_BACKBONE_TO_FILE * size


def _product(value: object, dims: object) -> float:
    """Multiply a list's numbers, or raise a number to ``dims``; 0 for anything else, infinity on overflow."""
    if isinstance(value, int | float) and isinstance(dims, int):
        value = [value] * min(dims, 64)
    if not isinstance(value, list | tuple) or not all(isinstance(side, int | float) for side in value):
        return 0
    try:
        return math.prod(map(float, value))
    except OverflowError:
        return math.inf
