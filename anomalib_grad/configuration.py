# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint and the model that loads it must agree on."""

from collections.abc import Mapping
from typing import Any


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
    differing = [key for key in model if key in checkpoint and model[key] != checkpoint[key]]
    if differing:
        fields = "; ".join(f"{key} is {checkpoint[key]!r} there and {model[key]!r} here" for key in differing)
        raise CheckpointConfigurationError(
            f"the checkpoint belongs to another configuration of Grad: {fields}. "
            f"Pass the checkpoint's values, or call Grad.load_from_checkpoint(path) with nothing else: it takes them."
        )
