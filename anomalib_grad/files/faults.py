# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a checkpoint file before it is used: torch and Lightning find fewer faults, and later."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor
from torch.serialization import get_safe_globals, safe_globals

from .arguments import ARGUMENTS, find_fault_of_arguments, find_fault_of_transform
from .torch_files import UNREADABLE, UnsafeFileError, check_file, find_unstored, load_mapped

ZIP_START = b"PK\x03\x04"
CONFIGURATION = "grad_configuration"
"""Key under which Grad stores in a checkpoint the configuration that its weights belong to."""
TRAINING_RUN = {"state_dict", "pytorch-lightning_version"}
COMPONENTS = [f"anomalib_{part}" for part in ("components_enabled", "post_processor_config", "pre_processor_config")]
MAPPINGS = (*ARGUMENTS, *COMPONENTS, "callbacks", CONFIGURATION, "loops")
PARTS = dict.fromkeys(MAPPINGS, Mapping) | dict.fromkeys(("lr_schedulers", "optimizer_states"), list)
"""Types that Lightning, anomalib and Grad expect of a checkpoint's optional parts."""
MODEL = "model."
"""Prefix of the network's weights. Thresholds lack it; there NaN means not set yet."""
MAY_BE_NAN = "mse_threshold"
MAY_BE_INFINITE = "recogniser.radius"
"""A buffer that is infinite if training showed too little to call any product unseen."""
NOT_A_TRAINING = "it is a PyTorch file, but not a checkpoint of a training"
OTHER_MODEL = "it is a checkpoint of another model than Grad"


def find_fault(path: Path, extra_safe_globals: Sequence[Any] = ()) -> str | None:
    """Return a reason not to use a checkpoint, without running anything in it.

    Args:
        path: An existing path that is not a folder.
        extra_safe_globals: Classes to allow in it besides tensors and what the caller already allowed torch to load.

    Returns:
        The fault, phrased to follow the file's name in a sentence; ``None`` for a whole checkpoint of Grad.
    """
    if not path.is_file():
        return "it is a pipe or a device, not a file"
    if not is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(len(ZIP_START))
        return "it is cut short" if start == ZIP_START else "it is not a checkpoint" if start else "it is empty"
    allowed: list[Any] = [*extra_safe_globals, *get_safe_globals()]
    try:
        names = (kind[1] if isinstance(kind, tuple) else f"{kind.__module__}.{kind.__qualname__}" for kind in allowed)
        check_file(path, set(names))
        with safe_globals(list(extra_safe_globals)):
            return _fault_of_content(load_mapped(path), path.stat().st_size)
    except UnsafeFileError as error:
        return str(error)
    except RecursionError:
        return "it is nested deeper than any checkpoint of a training"
    except UNREADABLE:
        return "it is damaged"


def _fault_of_content(content: object, size: int) -> str | None:
    if not isinstance(content, Mapping) or not content.keys() >= TRAINING_RUN:
        return NOT_A_TRAINING
    weights = content["state_dict"]
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(name, str) for name in weights):
        return NOT_A_TRAINING
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            return f"its weight {name!r} is not a tensor"
    if not isinstance(content["pytorch-lightning_version"], str):
        return NOT_A_TRAINING
    for part, kind in PARTS.items():
        if not isinstance(content.get(part), kind | None):
            return f"its {part!r} has a type that no training writes"
    return (
        find_fault_of_arguments(content, size)
        or find_fault_of_transform(content.get("anomalib_pre_processor_config") or {}, size)
        or _fault_of_callbacks(content.get("callbacks") or {})
        or _fault_of_weights(weights)
        or (None if CONFIGURATION in content else OTHER_MODEL)
    )


def _fault_of_weights(weights: Mapping[str, Tensor]) -> str | None:
    """Find NaN and infinite weights, with which a model calls every image normal, and infinite thresholds."""
    unstored = find_unstored(weights)
    if unstored is not None:
        return f"its weight {unstored!r} of shape {tuple(weights[unstored].shape)} is not stored in full"
    for name, values in weights.items():
        held = values.float() if values.dtype is torch.float64 else values  # the precision of the model
        if name.startswith(MODEL) and MAY_BE_NAN not in name:
            if not torch.isfinite(held).all():
                return f"its weight {name!r} has NaN or infinite values, as after a training that diverged"
        elif not name.endswith(MAY_BE_INFINITE) and torch.isinf(held).any():
            return f"its {name!r} is infinite"
    return None


def _fault_of_callbacks(states: Mapping[Any, Any]) -> str | None:
    """Find files outside the checkpoint's folder that a resumed training would delete.

    A resumed training deletes checkpoints once it has written better ones; of a folder it deletes everything in it.
    Lightning checks that they lie in its own folder, but it takes ``..`` for a name and every URL for its own.
    """
    for state in states.values():
        if isinstance(state, Mapping) and "best_model_path" in state:
            paths = [state.get(key) or "" for key in ("best_model_path", "kth_best_model_path", "last_model_path")]
            for path in [*paths, *(state.get("best_k_models") or ())]:
                if _leads_astray(path, state.get("dirpath")):
                    return f"resuming from it could delete {str(path)[:200]!r}, which is outside its folder"
    return None


def _leads_astray(path: object, folder: object) -> bool:
    """Tell whether a path is a URL outside the folder's, goes up after going down, or is not a string."""
    if not isinstance(path, str):
        return True
    if "://" in path:
        return ".." in path or not path.startswith(f"{folder}/")
    return PurePath(path) != PurePath(os.path.normpath(path))
