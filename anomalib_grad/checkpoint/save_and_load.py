# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Saving and loading of a model's own checkpoints: configuration, settings, weights and thresholds."""

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
    NEWER,
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
"""Prefix of the post-processor's weights."""
MEANS = THRESHOLDS + "recogniser.means"
"""Name of the recogniser's weights, empty before it is fitted."""

M = TypeVar("M")


def add_configuration(checkpoint: dict[str, Any], network: GradModel) -> None:
    """Add the network's configuration to a checkpoint, and convert NumPy scalars in it."""
    checkpoint[CONFIGURATION] = {
        **network.configuration,
        "mse_threshold": network.head.mse_threshold.item(),
        "tiling": describe(network.tiler),
        "drawn": None if network.head.drawn is None else network.head.drawn.tolist(),
    }
    for name, part in checkpoint.items():
        checkpoint[name] = without_numpy(part)


def without_numpy(value: Any) -> Any:  # noqa: ANN401  # of any type
    """Replace NumPy scalars in a part of a checkpoint by plain numbers: safe loading would reject them.

    They come from settings that users compute with NumPy, and from the states of users' callbacks.
    """
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: without_numpy(part) for key, part in value.items()}
    return type(value)(map(without_numpy, value)) if type(value) in {list, tuple} else value


def drop_copies(checkpoint: dict[str, Any], components: Iterable[nn.Module]) -> None:
    """Remove duplicate states of anomalib's components from a checkpoint.

    The components are callbacks as well as modules, and Lightning saves and loads the state of both. The callback state
    would override the module's weights unnoticed.
    """
    keys = {module.state_key for module in components if isinstance(module, Callback)}
    states = checkpoint.get("callbacks") or {}
    checkpoint["callbacks"] = {name: state for name, state in states.items() if name not in keys}


def settings_in(checkpoint: Mapping[str, Any], kind: type, given: Settings, recipe: str) -> tuple[str, Settings] | None:
    """Return recipe and settings of a checkpoint's model, overridden by settings that the user gave.

    Args:
        kind: Class of the model.
        checkpoint: Checkpoint of Grad or of another model.
        given: Settings that the user gave.
        recipe: Name of the user's recipe, or of the default one.

    Returns:
        ``None`` if the checkpoint has no settings.

    Raises:
        CheckpointConfigurationError: If the user chose another recipe, or the settings are invalid.
    """
    stored = grouped(checkpoint.get(HYPER_PARAMETERS) or {})
    if not stored or CONFIGURATION not in checkpoint:
        return None
    name, own = _recipe_and_settings(stored, kind)
    settings = given.over(own).over(PUBLISHED)
    if recipe not in {DEFAULT_RECIPE, name}:
        raise CheckpointConfigurationError(
            f"the checkpoint was trained with recipe {name!r}, not {recipe!r}: omit the recipe, because the checkpoint "
            f"contains all settings."
        )
    return name, settings


def _recipe_and_settings(stored: Mapping[str, Any], kind: type) -> tuple[str, Settings]:
    """Return recipe and settings among the arguments in a checkpoint; say who wrote those that are not known."""
    with restoring("settings", NEWER):
        of_model = [name for name in stored if not name.startswith("_")]  # the others are Lightning's
        unknown = _unknown(kind, of_model)
        if unknown is not None:
            raise ValueError(f"{kind.__name__} has no argument {unknown!r}")
        return find_recipe(stored["recipe"]).name, Settings.of(stored)


def _unknown(kind: type, names: Iterable[str]) -> str | None:
    """Return the first of some names that is no argument of a class: Lightning would ignore it."""
    own = signature(kind).parameters
    takes_any = any(part.kind is part.VAR_KEYWORD for part in own.values())
    return None if takes_any else next((name for name in names if name not in own), None)


def fit_network(network: GradModel, given: Settings, checkpoint: Mapping[str, Any]) -> None:
    """Adapt a network's shapes and tiling to a checkpoint whose weights it is about to load.

    Raises:
        CheckpointConfigurationError: If the user's settings contradict the checkpoint's, if it is not a checkpoint of
            Grad, or if its weights were changed.
    """
    configuration = dict(network.configuration)
    if isinstance(given.method.mse_threshold, int | float):  # given by the user
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
    """Resize the recogniser to fit a state dict, and check the weights outside the network.

    Args:
        model: The whole model; :func:`fit_network` has already adapted its network.
        weights: The state dict that is about to be loaded.
        kept: The model's post-processor, if it keeps categories.
        channels: Number of channels of the backbone.

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
    """Load a model with the settings in its checkpoint, overridden by given ones.

    Args:
        kind: Class of the model.
        read: Lightning's ``load_from_checkpoint`` of that class.
        source: Path, URL or open file.
        *args: Positional arguments of ``read``.
        **given: Keyword arguments of ``read`` and of the model.

    Raises:
        CheckpointConfigurationError: If the checkpoint is of another model, or contradicts given settings.
        CheckpointFileError: If the file is damaged, not a checkpoint, claims more than it holds, or would execute code.
        FileNotFoundError: If the file does not exist.
        TypeError: If the model has no such argument; Lightning would ignore it.
    """
    unknown = _unknown(kind, given.keys() - signature(read).parameters.keys())
    if unknown is not None:
        raise TypeError(f"{kind.__name__} has no argument {unknown!r}; constants are in {', '.join(GROUPS)}.")
    allowed = kind.checkpoint_safe_globals()  # type: ignore[attr-defined]  # anomalib's
    with checked_checkpoint(source, allowed) as path:
        try:
            arguments = stored_arguments(path, allowed)
            if arguments:
                _recipe_and_settings(arguments, kind)
            for name in GROUPS.keys() & given.keys():
                given[name] = filled(group_of(name, given[name]), group_of(name, arguments.get(name)))
            return read(path, *args, **arguments | given)
        except CheckpointConfigurationError as error:
            raise CheckpointConfigurationError(f"cannot use checkpoint {source}: {error}") from error
