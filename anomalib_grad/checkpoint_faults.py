# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a checkpoint file, found before it is used: torch and Lightning find less, and later."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import timm
import torch
from anomalib.utils.serialization import anomalib_safe_globals
from torch import Tensor

from .configuration import find_oversized
from .torch_files import UNREADABLE, ExcessError, check_archive, load_shapes

ZIP_START = b"PK\x03\x04"
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
"""The function that Lightning's command line has called to build a model; older Lightning calls whatever is named."""
CONFIGURATION = "grad_configuration"
"""Where Grad notes in a checkpoint what its weights belong to."""
TRAINING_RUN = {"state_dict", "pytorch-lightning_version"}
PARTS = {
    "callbacks": Mapping,
    "hyper_parameters": Mapping,
    "loops": Mapping,
    "lr_schedulers": list,
    "optimizer_states": list,
}
"""What Lightning expects of a checkpoint's other parts, which may be missing."""
MODEL = "model."
"""Names of the network's weights begin so; those of thresholds, which NaN marks as not set yet, do not."""
MOST_CUT_OFF = 64
"""How many times larger than the file a backbone may be before unused stages are cut off: 20 in mobilenetv3_small_050,
40 where the file is in half precision."""
NOT_SET = "mse_threshold"
NO_RUN = "it holds something else than a training run"
OTHER_MODEL = "it is of another model than Grad"
HOLDS_OBJECTS = "it holds Python objects, as an exported model does, and to load them could run anything"


def find_fault(path: Path, extra_safe_globals: Sequence[Any] = ()) -> str | None:
    """Look for a reason not to use a checkpoint; nothing in it is run, and nothing allocated for what it only claims.

    Args:
        path: An existing file.
        extra_safe_globals: Classes in it besides those that anomalib allows, as for reading it.

    Returns:
        The fault, to follow the file's name in a sentence; ``None`` if it is a whole checkpoint of Grad.
    """
    fault = _fault_of_archive(path)
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
            return None if archive.testzip() is None else "it is damaged"
    except ExcessError as error:
        return str(error)
    except (BadZipFile, EOFError, RuntimeError, ValueError, OSError):  # what zipfile makes of damaged headers
        return "it is damaged"


def _fault_of_content(content: object, size: int) -> str | None:
    if not isinstance(content, Mapping) or not content.keys() >= TRAINING_RUN:
        return NO_RUN
    weights = content["state_dict"]
    if not isinstance(weights, Mapping) or not weights:
        return NO_RUN
    no_tensor = next((name for name, value in weights.items() if not isinstance(value, Tensor)), None)
    if no_tensor is not None:
        return f"its weight {no_tensor!r} is no tensor"
    wrong = next((part for part, kind in PARTS.items() if not isinstance(content.get(part), kind | None)), None)
    if wrong is not None:
        return f"its {wrong} are none that a training wrote"
    arguments = content.get("hyper_parameters")
    return _fault_of_arguments(arguments, size) if isinstance(arguments, Mapping) else None


def _fault_of_arguments(arguments: Mapping[str, Any], size: int) -> str | None:
    if arguments.get("_instantiator", INSTANTIATOR) != INSTANTIATOR:
        return f"it asks for {arguments['_instantiator']!r} to be called, which could do anything"
    oversized = find_oversized(arguments, size) or (
        "backbone" if _is_oversized(arguments.get("backbone"), size) else None
    )
    if oversized is not None:
        return f"it holds no model of the size that its {oversized} of {arguments[oversized]} calls for"
    return None


def _is_oversized(backbone: object, size: int) -> bool:
    """Tell whether a timm network takes far more bytes than the file; unknown ones are left to the constructor."""
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        return False
    with torch.device("meta"):
        network = timm.create_model(backbone, pretrained=False)
    return sum(parameter.nbytes for parameter in network.parameters()) > MOST_CUT_OFF * size


def _fault_of_weights(weights: Mapping[str, Tensor]) -> str | None:
    """Look for weights that are no numbers: a model of them calls every image normal."""
    network = {name: values for name, values in weights.items() if name.startswith(MODEL) and NOT_SET not in name}
    diverged = next((name for name, values in network.items() if not torch.isfinite(values).all()), None)
    return diverged and f"its weight {diverged!r} is not finite, as after a training that diverged"
