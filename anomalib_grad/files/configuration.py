# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint and the model that loads it must agree on."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

MOST_DIMENSIONS = 64
"""Dimensions that a tensor can have in PyTorch."""
MOST_UNITS = 2**63
"""Elements along one of them."""

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


class CheckpointConfigurationError(ValueError):
    """A checkpoint was trained with another configuration than the model that is to load it."""


def check_configuration(model: Mapping[str, Any], checkpoint: Mapping[str, Any] | None) -> None:
    """Refuse a checkpoint of another configuration.

    Args:
        model: Configuration of the model, plain data.
        checkpoint: Configuration that the checkpoint was trained with, ``None`` if it holds none.

    Raises:
        CheckpointConfigurationError: If they differ, naming every field that does, or the checkpoint is not of Grad.
    """
    if checkpoint is None:
        raise CheckpointConfigurationError(
            "the checkpoint was not written by Grad but by another model; give one that a Grad model was saved to."
        )
    model, checkpoint = _with_lists(model), _with_lists(checkpoint)
    differing = [key for key in model if key in checkpoint and model[key] != checkpoint[key]]
    if differing:
        fields = "; ".join(f"{key} is {checkpoint[key]!r} there and {model[key]!r} here" for key in differing)
        raise CheckpointConfigurationError(
            f"the checkpoint belongs to another configuration of Grad: {fields}. "
            f"Leave these arguments out: the checkpoint brings its own."
        )


def _with_lists(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Give tuples as lists, which some file formats make of them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in configuration.items()}


def check_weights(model: Mapping[str, Tensor], checkpoint: Mapping[str, Tensor]) -> None:
    """Refuse the weights of a checkpoint if they are not those of its own configuration.

    Args:
        model: The model's weights, by name.
        checkpoint: Weights that are to take their place; what else there is besides is not looked at.

    Raises:
        CheckpointConfigurationError: If one is missing, of another shape or kind of number, naming the first.
    """
    for name, expected in model.items():
        difference = _difference(expected, checkpoint.get(name))
        if difference is not None:
            raise CheckpointConfigurationError(
                f"the checkpoint's weight {name!r} {difference}: it was changed after training; give one as Grad wrote "
                f"it."
            )


def _difference(expected: Tensor, found: Tensor | None) -> str | None:
    if found is None:
        return "is missing"
    if found.shape != expected.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    if found.is_complex() or found.is_floating_point() != expected.is_floating_point():
        return f"holds numbers of {found.dtype}, not {expected.dtype}"
    return None


def find_oversized(arguments: Mapping[str, Any], size: int) -> str | None:
    """Find an argument of Grad that calls for a larger model than a file of some bytes can hold.

    Grids and blocks are stored in full, the fusion has weights for every hidden channel, and the global grid has values
    for every cell of the feature maps, so that it has more bytes than an image has pixels.

    Args:
        arguments: Constructor arguments that a checkpoint holds; those of unexpected types are left to the constructor.
        size: Bytes of the checkpoint.

    Returns:
        Name of the argument; ``None`` if there is none.
    """
    for name, stored in LEAST_BYTES.items():
        dims = arguments.get(name.replace("resolution", "dims"), 2) if name.endswith("resolution") else 1
        if product(arguments.get(name), dims) * stored > size:
            return name
    return None


def product(value: object, dims: object) -> float:
    """Product of numbers, or the power of one; 0 for what is neither, infinite beyond what a tensor can be."""
    if isinstance(value, int | float) and isinstance(dims, int):
        factors = [value] * min(dims, MOST_DIMENSIONS + 1)
    elif isinstance(value, list | tuple) and all(isinstance(axis, int | float) for axis in value):
        factors = list(value[: MOST_DIMENSIONS + 1])
    else:
        return 0
    if len(factors) > MOST_DIMENSIONS or any(abs(factor) > MOST_UNITS for factor in factors):
        return math.inf
    return math.prod(map(float, factors))
