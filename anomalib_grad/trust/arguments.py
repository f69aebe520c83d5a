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
    oversized = find_oversized(arguments, size) or (
        "backbone" if _is_oversized(arguments.get("backbone"), size) else None
    )
    return oversized and f"it holds no model of the size that its {oversized} of {arguments[oversized]} calls for"


def find_fault_of_transform(settings: Mapping[str, Any], size: int) -> str | None:
    """Look for a transform that makes images larger than any that the model in a checkpoint could have been made for.

    Args:
        settings: The pre-processor's, in plain data.
        size: Bytes of the checkpoint, whose global grid has more of them than an image has pixels.

    Returns:
        The fault, to follow the file's name in a sentence; ``None`` if there is none.
    """
    sides = [side for key, side in _named_values(settings) if key == "size"]
    single = [side[0] if isinstance(side, list | tuple) and len(side) == 1 else side for side in sides]
    largest = max((product(side, dims=2) for side in single), default=0)
    return f"its pre-processor makes images of {largest} pixels, too many for its model" if largest > size else None


def _named_values(settings: object) -> Iterator[tuple[object, object]]:
    """Walk through nested dictionaries and lists."""
    if isinstance(settings, Mapping):
        yield from settings.items()
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for part in settings:
            yield from _named_values(part)


def is_plain(value: object) -> bool:
    """Tell whether a value is a number, a text, a path, a named constant, nothing, or a collection of such."""
    if isinstance(value, Mapping):
        return all(is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | PurePath | Enum)


def _is_oversized(backbone: object, size: int) -> bool:
    """Tell whether a timm network takes far more bytes than the file; unknown ones are left to the constructor."""
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        return False
    with torch.device("meta"):
        network = timm.create_model(backbone, pretrained=False)
    return sum(parameter.nbytes for parameter in network.parameters()) > MOST_CUT_OFF * size
