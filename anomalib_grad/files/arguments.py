# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Constructor arguments that a checkpoint brings, looked at before a model is built with them.

Grad's are plain values. Lightning also takes a function to call with them, ``_instantiator``; the only one that it
trusts makes an object of any class, and calls any function, that an argument names. anomalib never writes it.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import timm
import torch

from .configuration import find_oversized, product

ARGUMENTS = ("hparams", "module_arguments", "hyper_parameters")
"""Where Lightning finds arguments; the last ones win, and the first two are of versions before 1.0."""
SIZES = ("size", "max_size")
"""What transforms call the height and width, or one side, of the images that they make."""
CALLABLES = ("_instantiator", "_class_path")
MOST_CUT_OFF = 64
"""How many times larger than the file a backbone may be before unused stages are cut off: 20 in mobilenetv3_small_050,
40 where the file is in half precision."""


def find_fault_of_arguments(content: Mapping[str, Any], size: int) -> str | None:
    """Look for a reason not to build a model with the arguments in a checkpoint.

    Args:
        content: The checkpoint; what it has of :data:`ARGUMENTS` are dictionaries.
        size: Its bytes.

    Returns:
        The fault, to follow the file's name in a sentence; ``None`` if there is none.
    """
    arguments = {name: value for key in ARGUMENTS for name, value in (content.get(key) or {}).items()}
    called = next((name for name in CALLABLES if name in arguments), None)
    if called is not None:
        return f"it asks for {arguments[called]!r} to be called, which could do anything"
    strange = next((name for name, value in arguments.items() if not is_plain(value)), None)
    if strange is not None:
        return f"its argument {strange!r} is no plain value"
    grouped = {
        name: value for group in arguments.values() if isinstance(group, Mapping) for name, value in group.items()
    }
    oversized = find_oversized(grouped | arguments, size) or (
        "backbone" if is_oversized(arguments.get("backbone"), size) else None
    )
    return oversized and f"it holds no model of the size that its {oversized} calls for"


def find_fault_of_transform(settings: Mapping[str, Any], size: int) -> str | None:
    """Look for a transform that makes images larger than any that the model in a checkpoint could have been made for.

    Args:
        settings: The pre-processor's, in plain data.
        size: Bytes of the checkpoint, whose global grid has more of them than an image has pixels.

    Returns:
        The fault, to follow the file's name in a sentence; ``None`` if there is none.
    """
    for name, value in _numbers(settings):
        pixels = product(value, dims=2)
        if name in SIZES and min(value) < 1:
            return "its pre-processor makes images of no size"
        if not pixels <= size:
            return f"its pre-processor makes images of {pixels:.0f} pixels, too many for its model"
    return None


def _numbers(settings: object, name: str = "") -> Iterator[tuple[str, list[float]]]:
    """Walk through the numbers in nested dictionaries and lists, with the last name above: pairs, or one by one."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _numbers(value, str(key))
    elif isinstance(settings, list | tuple):
        if len(settings) == 2 and all(isinstance(side, int | float) for side in settings):  # noqa: PLR2004
            yield name, list(settings)
        else:
            for part in settings:
                yield from _numbers(part, name)
    elif isinstance(settings, int | float):
        yield name, [settings] * 2


def is_plain(value: object) -> bool:
    """Tell whether a value is a number, a text, a path, a named constant, nothing, or a collection of such."""
    if isinstance(value, Mapping):
        return all(is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | PurePath | Enum)


def is_oversized(backbone: object, size: int) -> bool:
    """Tell whether a timm network takes far more bytes than the file; unknown ones are left to the constructor."""
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        return False
    with torch.device("meta"):
        network = timm.create_model(backbone, pretrained=False)
    return sum(parameter.nbytes for parameter in network.parameters()) > MOST_CUT_OFF * size
