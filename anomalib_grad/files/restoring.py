# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that a checkpoint notes beside its weights, refused by name where nothing can be built from them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .configuration import CheckpointConfigurationError

_UNUSABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_SWITCHES = ("enable_normalization", "enable_thresholding", "enable_threshold_matching")
_SHARES = ("image_sensitivity", "pixel_sensitivity", "false_alarm_rate")


@contextmanager
def restoring(part: str) -> Iterator[None]:
    """Name a part of a checkpoint when what it describes cannot be built in the block.

    Raises:
        CheckpointConfigurationError: In place of what building raises on garbage, which is its cause.
    """
    try:
        yield
    except CheckpointConfigurationError:
        raise
    except _UNUSABLE as error:
        raise CheckpointConfigurationError(
            f"the checkpoint's {part} cannot be used ({error}): it was changed after training; give one as Grad wrote "
            f"it."
        ) from error


def check_post_processing(settings: Mapping[str, Any]) -> None:
    """Refuse settings of a post-processor that would be accepted and mean something else.

    Args:
        settings: What ``PerCategoryPostProcessor.checkpoint_config`` gave; any may be missing.

    Raises:
        ValueError: Names the first that is no switch, share or list of names where it should be one.
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
        raise ValueError(f"categories={names!r} are not names")
