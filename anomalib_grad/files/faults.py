# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a checkpoint file, found before it is used: torch and Lightning find less, and later."""

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
"""Where Grad notes in a checkpoint what its weights belong to."""
TRAINING_RUN = {"state_dict", "pytorch-lightning_version"}
PARTS = dict.fromkeys(ARGUMENTS, Mapping) | {
    "anomalib_components_enabled": Mapping,
    "anomalib_post_processor_config": Mapping,
    "anomalib_pre_processor_config": Mapping,
    "callbacks": Mapping,
    CONFIGURATION: Mapping,
    "loops": Mapping,
    "lr_schedulers": list,
    "optimizer_states": list,
}
"""What Lightning, anomalib and Grad expect of a checkpoint's other parts, which may be missing."""
MODEL = "model."
"""Names of the network's weights begin so; those of thresholds, which NaN marks as not set yet, do not."""
NOT_SET = "mse_threshold"
WITHOUT_BOUND = "recogniser.radius"
"""Infinite where training showed too little to call any product unseen."""
NO_RUN = "it holds something else than a training run"
OTHER_MODEL = "it is of another model than Grad"


def find_fault(path: Path, extra_safe_globals: Sequence[Any] = ()) -> str | None:
    """Look for a reason not to use a checkpoint; nothing in it is run.

    Args:
        path: What is there and is no folder.
        extra_safe_globals: Classes that it may hold besides tensors and what the caller allowed torch to load.

    Returns:
        The fault, to follow the file's name in a sentence; ``None`` if it is a whole checkpoint of Grad.
    """
    if not path.is_file():
        return "it is a pipe or a device, no file"
    if not is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(len(ZIP_START))
        return "it is cut short" if start == ZIP_START else "it is no checkpoint" if start else "it is empty"
    allowed: list[Any] = [*extra_safe_globals, *get_safe_globals()]
    try:
        names = (kind[1] if isinstance(kind, tuple) else f"{kind.__module__}.{kind.__qualname__}" for kind in allowed)
        check_file(path, set(names))
        with safe_globals(list(extra_safe_globals)):
            return _fault_of_content(load_mapped(path), path.stat().st_size)
    except UnsafeFileError as error:
        return str(error)
    except RecursionError:
        return "it is nested deeper than what any training writes"
    except UNREADABLE:
        return "it is damaged"


def _fault_of_content(content: object, size: int) -> str | None:
    if not isinstance(content, Mapping) or not content.keys() >= TRAINING_RUN:
        return NO_RUN
    weights = content["state_dict"]
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(name, str) for name in weights):
        return NO_RUN
    no_tensor = next((name for name, value in weights.items() if not isinstance(value, Tensor)), None)
    if no_tensor is not None:
        return f"its weight {no_tensor!r} is no tensor"
    if not isinstance(content["pytorch-lightning_version"], str):
        return NO_RUN
    wrong = next((part for part, kind in PARTS.items() if not isinstance(content.get(part), kind | None)), None)
    if wrong is not None:
        return f"its {wrong!r} is not what a training wrote"
    return (
        find_fault_of_arguments(content, size)
        or find_fault_of_transform(content.get("anomalib_pre_processor_config") or {}, size)
        or _fault_of_callbacks(content.get("callbacks") or {})
        or _fault_of_weights(weights)
        or (None if CONFIGURATION in content else OTHER_MODEL)
    )


def _fault_of_weights(weights: Mapping[str, Tensor]) -> str | None:
    """Look for NaN and infinite weights, of which a model calls every image normal, and infinite thresholds."""
    unstored = find_unstored(weights)
    if unstored is not None:
        return f"its weight {unstored!r} of shape {tuple(weights[unstored].shape)} is not stored in full"
    for name, values in weights.items():
        held = values.float() if values.dtype is torch.float64 else values  # as a model holds them
        if name.startswith(MODEL) and NOT_SET not in name:
            if not torch.isfinite(held).all():
                return f"its weight {name!r} is not finite, as after a training that diverged"
        elif not name.endswith(WITHOUT_BOUND) and torch.isinf(held).any():
            return f"its {name!r} is infinite"
    return None


def _fault_of_callbacks(states: Mapping[Any, Any]) -> str | None:
    """Look for files of others that going on would delete.

    A resumed training deletes the checkpoints that it has written better ones for, folders with all that is in them.
    Lightning makes sure that they lie in its folder, but takes ``..`` for a name, and every URL for its own.
    """
    for state in states.values():
        if isinstance(state, Mapping) and "best_model_path" in state:
            paths = [state.get(key) or "" for key in ("best_model_path", "kth_best_model_path", "last_model_path")]
            for path in [*paths, *(state.get("best_k_models") or ())]:
                if _leads_astray(path, state.get("dirpath")):
                    return f"going on from it could delete {str(path)[:200]!r}, which is outside of its folder"
    return None


def _leads_astray(path: object, folder: object) -> bool:
    """Tell whether a path is a URL beyond the folder's, leads up after it led down, or is not even a text."""
    if not isinstance(path, str):
        return True
    if "://" in path:
        return ".." in path or not path.startswith(f"{folder}/")
    return PurePath(path) != PurePath(os.path.normpath(path))
