# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a checkpoint file, found before it is used: torch and Lightning find less, and later."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from anomalib.utils.serialization import anomalib_safe_globals
from torch import Tensor

from .arguments import ARGUMENTS, find_fault_of_arguments, find_fault_of_transform
from .callbacks import find_fault_of_callbacks
from .torch_files import UNREADABLE, ExcessError, check_archive, check_sums, load_shapes

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
HOLDS_OBJECTS = "it holds Python objects, as an exported model does, and to load them could run anything"


def find_fault(path: Path, extra_safe_globals: Sequence[Any] = ()) -> str | None:
    """Look for a reason not to use a checkpoint; nothing in it is run, and nothing allocated for what it only claims.

    Args:
        path: What is there and is no folder.
        extra_safe_globals: Classes in it besides those that anomalib allows, as for reading it.

    Returns:
        The fault, to follow the file's name in a sentence; ``None`` if it is a whole checkpoint of Grad.
    """
    fault = _fault_of_archive(path) if path.is_file() else "it is a pipe or a device, no file"
    if fault is not None:
        return fault
    with anomalib_safe_globals(extra=extra_safe_globals):
        return _fault_inside(path)


def _fault_inside(path: Path) -> str | None:
    """Look at what a whole archive holds, its weights' values last."""
    try:
        content = load_shapes(path)
    except ExcessError as error:
        return str(error)
    except UnpicklingError:
        return HOLDS_OBJECTS
    except UNREADABLE:
        return "it is damaged"
    fault = _fault_of_content(content, path.stat().st_size)
    if fault is not None:
        return fault
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except RuntimeError:  # a part that a tensor is to be in is missing or too short
        return "it is damaged"
    return _fault_of_weights(weights) or (None if CONFIGURATION in content else OTHER_MODEL)


def _fault_of_archive(path: Path) -> str | None:
    """Compare the file's parts with their check sums, which torch does not."""
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
    if start != ZIP_START:
        return "it is no checkpoint" if start else "it is empty"
    if not is_zipfile(path):
        return "it is cut short"
    try:
        check_archive(path)
        with ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "it is no checkpoint"
        check_sums(path)
    except ExcessError as error:
        return str(error)
    except (BadZipFile, EOFError, RuntimeError, ValueError, OSError):  # what zipfile makes of damaged headers
        return "it is damaged"
    return None


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
        or find_fault_of_callbacks(content.get("callbacks") or {})
    )


def _fault_of_weights(weights: Mapping[str, Tensor]) -> str | None:
    """Look for weights that are no numbers: a model of them calls every image normal. So do infinite thresholds."""
    for name, values in weights.items():
        if values.is_meta:
            return f"its weight {name!r} is not stored"
        if name.startswith(MODEL) and NOT_SET not in name:
            if not torch.isfinite(as_float32(values)).all():
                return f"its weight {name!r} is not finite, as after a training that diverged"
        elif not name.endswith(WITHOUT_BOUND) and torch.isinf(as_float32(values)).any():
            return f"its {name!r} is infinite"
    return None


def as_float32(values: Tensor) -> Tensor:
    """Give the values in the precision in which a model holds them: what float64 can hold may be infinite there."""
    return values.float() if values.dtype is torch.float64 else values
