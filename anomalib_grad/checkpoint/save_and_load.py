# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a model notes in its own checkpoints, and how it becomes what one of them holds."""

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from anomalib_grad.backbone.tiling import describe, rebuild
from anomalib_grad.files.checkpoint_reading import checked_checkpoint
from anomalib_grad.files.configuration import (
    CheckpointConfigurationError,
    check_configuration,
    check_weights,
    restoring,
)
from anomalib_grad.files.faults import CONFIGURATION, MODEL
from anomalib_grad.recipes import DEFAULT_RECIPE, PUBLISHED, find_recipe
from anomalib_grad.settings import GROUPS, Settings, filled, group_of
from anomalib_grad.settings.from_checkpoint import HYPER_PARAMETERS, grouped, stored_arguments
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor
from anomalib_grad.torch_model import GradModel

THRESHOLDS = "post_processor."
"""Names of what the post-processor holds begin so."""
MEANS = THRESHOLDS + "recogniser.means"
"""What the recogniser has learnt, if it has."""

M = TypeVar("M")


def note(checkpoint: dict[str, Any], network: GradModel) -> None:
    """Note what the weights in a checkpoint belong to."""
    checkpoint[CONFIGURATION] = {
        **network.configuration,
        "mse_threshold": network.head.mse_threshold.item(),
        "tiling": describe(network.tiler),
        "drawn": None if network.head.drawn is None else network.head.drawn.tolist(),
    }
    for name, part in checkpoint.items():
        checkpoint[name] = without_numpy(part)


def without_numpy(value: Any) -> Any:  # noqa: ANN401  # of any type
    """Give a part of a checkpoint with plain numbers in the place of NumPy's, which are refused when it is read.

    Users compute settings with NumPy, and callbacks of theirs keep what they have computed.
    """
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: without_numpy(part) for key, part in value.items()}
    return type(value)(map(without_numpy, value)) if type(value) in {list, tuple} else value


def leave_out_copies(checkpoint: dict[str, Any], components: Iterable[nn.Module]) -> None:
    """Take from a checkpoint what it holds twice.

    anomalib's components are callbacks as well as modules, and Lightning writes and reads the state of both: the second
    copy would win, unseen by whoever looks at the weights.
    """
    keys = {module.state_key for module in components if isinstance(module, Callback)}
    states = checkpoint.get("callbacks") or {}
    checkpoint["callbacks"] = {name: state for name, state in states.items() if name not in keys}


def settings_in(checkpoint: Mapping[str, Any], given: Settings, recipe: str) -> tuple[str, Settings] | None:
    """Recipe and settings of the model that a checkpoint belongs to, but for those that the user gave.

    Args:
        checkpoint: Of Grad, or of another model.
        given: What the user gave.
        recipe: Name of the recipe that the user, or nobody, chose.

    Returns:
        ``None`` if it holds none.

    Raises:
        CheckpointConfigurationError: If the user chose another recipe, or the settings cannot be used.
    """
    stored = grouped(checkpoint.get(HYPER_PARAMETERS) or {})
    if not stored or CONFIGURATION not in checkpoint:
        return None
    with restoring(f"{HYPER_PARAMETERS!r}"):
        name = find_recipe(stored["recipe"]).name
        settings = given.over(Settings.of(stored)).over(PUBLISHED)
    if recipe not in {DEFAULT_RECIPE, name}:
        raise CheckpointConfigurationError(
            f"the checkpoint was trained by recipe {name!r}, not {recipe!r}: leave the recipe out, the checkpoint "
            f"brings all settings."
        )
    return name, settings


def fit_network(network: GradModel, given: Settings, checkpoint: Mapping[str, Any]) -> None:
    """Give a network the shapes and tiling of a checkpoint whose weights it is about to load.

    Raises:
        CheckpointConfigurationError: If the user gave other settings than the checkpoint's, it is not of Grad, or its
            weights were changed.
    """
    configuration = dict(network.configuration)
    if isinstance(given.method.mse_threshold, int | float):  # asked for, not the default or an estimate
        configuration["mse_threshold"] = network.head.mse_threshold.item()
    if network.tiler is not None:
        configuration["tiling"] = describe(network.tiler)
    check_configuration(configuration, checkpoint.get(CONFIGURATION))
    network.make_room(checkpoint["state_dict"], MODEL)
    check_weights(network.state_dict(prefix=MODEL), checkpoint["state_dict"])
    with restoring("'tiling'"):
        network.backbone.tiler = rebuild(checkpoint[CONFIGURATION].get("tiling", configuration.get("tiling")))
    with restoring("'drawn'"):
        drawn = checkpoint[CONFIGURATION].get("drawn")
        network.head.drawn = None if drawn is None else torch.tensor(drawn)
    network.backbone.mark_weights_ready()


def fit_thresholds(
    model: nn.Module, weights: Mapping[str, Tensor], kept: PerCategoryPostProcessor | None, channels: int
) -> None:
    """Make room for what a state dict has learnt to recognise, and check all of it that is not the network's.

    Args:
        model: The whole model, whose network has its shapes already.
        weights: Its state dict, about to be loaded.
        kept: The model's post-processor, if it keeps categories.
        channels: Of the backbone.

    Raises:
        CheckpointConfigurationError: If weights were changed.
    """
    means = weights.get(MEANS)
    if kept is not None and means is not None and means.numel():
        kept.recogniser.reset(len(kept.categories), channels)
    own = model.state_dict()
    check_weights({name: own[name] for name in own if name in weights or name.startswith(THRESHOLDS)}, weights)


def load(  # arguments are Lightning's
    kind: type,
    read: Callable[..., M],
    source: str | Path | IO[bytes],
    *args: Any,  # noqa: ANN401
    **given: Any,  # noqa: ANN401
) -> M:
    """Load a model with the settings that its checkpoint holds; those given win.

    Args:
        kind: Class of the model, which knows its arguments.
        read: Lightning's ``load_from_checkpoint`` of that class.
        source: Path, URL or open file.
        *args: Arguments of ``read``.
        **given: Arguments of ``read``, and of the model.

    Raises:
        CheckpointConfigurationError: If it is of another model, or of other settings than those given.
        CheckpointFileError: If the file is damaged, no checkpoint, claims more than it holds, or wants code to run.
        FileNotFoundError: If it is not there.
        TypeError: If an argument is none of the model's; Lightning would pass over it.
    """
    own = signature(kind).parameters
    unknown = next((name for name in given if name not in {**signature(read).parameters, **own}), None)
    if unknown is not None and not any(part.kind is part.VAR_KEYWORD for part in own.values()):
        raise TypeError(f"{kind.__name__} takes no argument {unknown!r}; constants stand in {', '.join(GROUPS)}.")
    allowed = kind.checkpoint_safe_globals()  # type: ignore[attr-defined]  # anomalib's
    with checked_checkpoint(source, allowed) as path:
        try:
            arguments = stored_arguments(path, allowed)
            for name in GROUPS.keys() & given.keys():
                given[name] = filled(group_of(name, given[name]), group_of(name, arguments.get(name)))
            return read(path, *args, **arguments | given)
        except CheckpointConfigurationError as error:
            raise CheckpointConfigurationError(f"cannot use checkpoint {source}: {error}") from error
