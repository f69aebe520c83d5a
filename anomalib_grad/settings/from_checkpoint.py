# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Settings stored in a checkpoint, read before a model is built with them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from anomalib.utils.serialization import anomalib_safe_globals

from anomalib_grad.files.configuration import check_configuration
from anomalib_grad.files.faults import CONFIGURATION
from anomalib_grad.files.torch_files import load_mapped

from .groups import GROUPS

HYPER_PARAMETERS = "hyper_parameters"
"""Key under which Lightning stores constructor arguments in a checkpoint."""
_FOLDER = "feature_cache_dir"
_RENAMED = {
    _FOLDER: ("cache", "folder"),
    "feature_cache_dtype": ("cache", "dtype"),
    "feature_cache_gib": ("cache", "gib"),
}
_RECIPES = {"residual": "grad", "mobile": "crad", "small": "crad_s"}


def stored_arguments(path: str | Path, extra_safe_globals: Sequence[Any]) -> dict[str, Any]:
    """Read the constructor arguments in a checkpoint that has been checked; allow more classes than anomalib's.

    Raises:
        CheckpointConfigurationError: If it is another model's, whose arguments Grad may not have.
    """
    with anomalib_safe_globals(extra=extra_safe_globals):
        content = load_mapped(Path(path))
    check_configuration({}, content.get(CONFIGURATION))
    return grouped(content.get(HYPER_PARAMETERS) or {})


def grouped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the arguments in a checkpoint to the form that Grad takes.

    Checkpoints from before there were recipes have one argument per setting; Lightning adds those that they are read as
    to them. The cache's folder is left out, as it may belong to another machine.
    """
    if not arguments:
        return {}
    places = {part.name: (group, part.name) for group, kind in GROUPS.items() for part in fields(kind)} | _RENAMED
    if "recipe" in arguments:
        cache = arguments.get("cache")
        own = {"cache": {**cache, "folder": None} if isinstance(cache, Mapping) else cache}
        return {name: value for name, value in arguments.items() if name not in places} | own
    result: dict[str, Any] = {"recipe": _RECIPES.get(str(arguments.get("fusion")), "crad")}
    for name, value in arguments.items():
        group, name_in_group = places.get(name, (None, name))
        if group is None:
            result[name] = value
        elif name != _FOLDER:
            result.setdefault(group, {})[name_in_group] = value
    return result
