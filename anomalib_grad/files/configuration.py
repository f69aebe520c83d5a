# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that a checkpoint fits the model that loads it, and that its stored settings can be used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_UNUSABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_SWITCHES = ("enable_normalization", "enable_thresholding", "enable_threshold_matching")
_SHARES = ("image_sensitivity", "pixel_sensitivity", "false_alarm_rate")


class CheckpointConfigurationError(ValueError):
    """A checkpoint was trained with another configuration than that of the model that loads it."""


def check_configuration(model: Mapping[str, Any], checkpoint: Mapping[str, Any] | None) -> None:
    """Refuse a checkpoint with another configuration than the model's, or with none; both are plain data.

    Raises:
        CheckpointConfigurationError: If they differ (names every differing field), or the checkpoint is not Grad's.
    """
    if checkpoint is None:
        raise CheckpointConfigurationError(
            "the checkpoint was not written by Grad but by another model; give a checkpoint of a Grad training."
        )
    model, checkpoint = _with_lists(model), _with_lists(checkpoint)
    differing = [key for key in model if key in checkpoint and model[key] != checkpoint[key]]
    if differing:
        fields = "; ".join(
            f"{key} is {checkpoint[key]!r} in the checkpoint but {model[key]!r} in this model" for key in differing
        )
        raise CheckpointConfigurationError(
            f"the checkpoint was trained with other settings: {fields}. "
            f"Do not give these arguments; they are taken from the checkpoint."
        )


def _with_lists(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Replace tuples by lists, as some file formats do."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in configuration.items()}


def check_weights(model: Mapping[str, Tensor], checkpoint: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint has every weight of ``model``; further weights are ignored.

    Raises:
        CheckpointConfigurationError: If one is missing, or has another shape or kind of number; names the first.
    """
    for name, expected in model.items():
        difference = _difference(expected, checkpoint.get(name))
        if difference is not None:
            raise CheckpointConfigurationError(f"the checkpoint's weight {name!r} {difference}: {CHANGED}.")


def _difference(expected: Tensor, found: Tensor | None) -> str | None:
    if found is None:
        return "is missing"
    if found.shape != expected.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    if found.is_complex() or found.is_floating_point() != expected.is_floating_point():
        return f"has type {found.dtype}, not {expected.dtype}"
    return None


CHANGED = "the file was changed after training; give the checkpoint that Grad wrote"
NEWER = (
    "a newer version of anomalib-grad wrote it, or it was changed after training; install the version that trained it"
)
"""Reasons for a part of a checkpoint that cannot be used, each with what to do."""


@contextmanager
def restoring(part: str, reason: str = CHANGED) -> Iterator[None]:
    """Name the part of a checkpoint that a block fails to build, and the probable reason.

    Raises:
        CheckpointConfigurationError: In place of the errors that unusable values lead to; the original is its cause.
    """
    try:
        yield
    except CheckpointConfigurationError:
        raise
    except _UNUSABLE as error:
        raise CheckpointConfigurationError(
            f"the checkpoint's {part} cannot be used ({' '.join(str(error).split()).rstrip('.')}): {reason}."
        ) from error


def check_post_processing(settings: Mapping[str, Any]) -> None:
    """Refuse values of ``PerCategoryPostProcessor.checkpoint_config`` that would load but mean something else.

    Raises:
        ValueError: Names the first value that is not the switch, share or list of names that it should be.
    """
    for name in _SWITCHES:
        if settings.get(name, True) not in (True, False):
            raise ValueError(f"{name}={settings[name]!r} is neither true nor false")
    for name in _SHARES:
        share = settings.get(name)
        if share is not None and not (isinstance(share, int | float) and 0 <= share <= 1):
            raise ValueError(f"{name}={share!r} does not lie between 0 and 1")
    names = settings.get("categories", [])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"categories={names!r} is not a list of names")
