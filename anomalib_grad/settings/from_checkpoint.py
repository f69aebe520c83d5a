# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Settings stored in a checkpoint, read before a model is built with them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from anomalib.utils.serialization import anomalib_safe_globals

from anomalib_grad.files.torch_files import load_mapped

from .groups import GROUPS

HYPER_PARAMETERS = "hyper_parameters"
"""Key under which Lightning stores constructor arguments in a checkpoint."""
_RENAMED = {"feature_cache_dtype": ("cache", "dtype"), "feature_cache_gib": ("cache", "gib")}
_RECIPES = {"residual": "grad", "mobile": "crad", "small": "crad_s"}


def stored_arguments(path: str | Path, extra_safe_globals: Sequence[Any]) -> dict[str, Any]:
    """Read the constructor arguments in a checkpoint that has been checked; allow more classes than anomalib's."""
    with anomalib_safe_globals(extra=extra_safe_globals):
        content = load_mapped(Path(path))
    return grouped(content.get(HYPER_PARAMETERS) or {})


def grouped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the arguments in a checkpoint to the form that Grad takes.

    Checkpoints from before there were recipes have one argument per setting. The cache's folder is left out, as it may
    belong to another machine.
    """
    if not arguments:
        return {}
    if "recipe" in arguments:
        cache = arguments.get("cache")
        return {**arguments, "cache": {**cache, "folder": None} if isinstance(cache, Mapping) else cache}
    places = {part.name: (group, part.name) for group, kind in GROUPS.items() for part in fields(kind)} | _RENAMED
    result: dict[str, Any] = {"recipe": _RECIPES.get(str(arguments.get("fusion")), "crad")}
    for name, value in arguments.items():
        group, own = places.get(name, (None, name))
        if group is None:
            result[own] = value
        else:
            result.setdefault(group, {})[own] = value
    return result
