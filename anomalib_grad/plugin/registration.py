# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Register GRAD and its datamodules with anomalib, so that anomalib finds them by their plain names."""

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

MODEL_MODULES = ("anomalib_grad", "anomalib_grad.lightning_model")


class RegistrationError(RuntimeError):
    """The installed anomalib lacks what registration needs, or has another class of the same name."""


def register() -> None:
    """Make GRAD known to anomalib under its plain names: ``Grad``, ``grad``, ``MultiCategory``.

    After ``pip install`` this happens automatically whenever anomalib is imported. Call it only where Python does not
    read the installed ``anomalib_grad.pth``: with ``PYTHONPATH`` or ``pip install --target``, or under ``python -S``.
    Calling it again has no effect.

    Raises:
        RegistrationError: If anomalib lacks what registration needs or has another class of the same name.

    Example:
        >>> import anomalib_grad
        >>> anomalib_grad.register()
        >>> from anomalib.models import get_model
        >>> model = get_model("grad")
    """
    for name in _REGISTER:
        register_with(import_module(name))


def register_with(registry: ModuleType) -> None:
    """Register with ``anomalib.data`` or ``anomalib.models``; errors are those of :func:`register`."""
    _REGISTER[registry.__name__](registry)


def _register_datamodules(data: ModuleType) -> None:
    ours = import_module("anomalib_grad.data")
    for name in ours.__all__:
        member = getattr(ours, name)
        if isinstance(member, type) and issubclass(member, data.AnomalibDataModule):
            _attach(data, name, member)


def _register_model(models: ModuleType) -> None:
    grad = import_module("anomalib_grad.lightning_model").Grad
    _attach(models, "Grad", grad)  # {"class_path": "Grad"}
    _part(models, "ALLOWED_MODULES").update(MODEL_MODULES)  # {"class_path": "anomalib_grad.Grad"}
    _accept_import_path(models)  # "anomalib_grad.Grad"
    command_line = vars(sys.modules.get("anomalib.cli.cli", models))  # partly imported, as it imports the models
    if "ArgumentParser" in command_line:
        command_line["ArgumentParser"] = import_module("anomalib_grad.plugin.command_line").CommandLineParser
    import_module("anomalib_grad.plugin.results_folder").explain_folder_errors()


def _accept_import_path(models: ModuleType) -> None:
    """Make ``get_model`` accept GRAD's import path as a plain string, as it does in a dictionary."""
    find = _part(models, "_get_model_class_by_name")
    if find.__module__ == __name__:
        return

    @wraps(find, assigned=("__name__", "__qualname__", "__doc__"))
    def get_model_class_by_name(name: str) -> type:
        module, _, class_name = name.rpartition(".")
        return find(class_name if module in MODEL_MODULES else name)

    vars(models)["_get_model_class_by_name"] = get_model_class_by_name


def _attach(registry: ModuleType, name: str, member: type) -> None:
    if getattr(registry, name, member) is not member:
        raise RegistrationError(
            f"{registry.__name__} of anomalib {version('anomalib')} already has another {name}; "
            f"use the full name {member.__module__}.{name}."
        )
    setattr(registry, name, member)
    if name not in _part(registry, "__all__"):
        registry.__all__.append(name)


def _part(registry: ModuleType, name: str) -> Any:  # noqa: ANN401  # whatever anomalib keeps under that name
    if not hasattr(registry, name):
        raise RegistrationError(
            f"anomalib {version('anomalib')} has no {registry.__name__}.{name}; "
            "install a version of anomalib that this anomalib-grad supports."
        )
    return getattr(registry, name)


_REGISTER: dict[str, Callable[[ModuleType], None]] = {
    "anomalib.data": _register_datamodules,
    "anomalib.models": _register_model,
}
