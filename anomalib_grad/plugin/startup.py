# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Start-up hook: registers GRAD when a program imports anomalib, and does nothing in any other program.

Packaging installs this file as the top-level module ``_anomalib_grad_startup``, so that importing it loads no package.
The line in ``anomalib_grad.pth`` imports it whenever Python starts. So it imports only modules that Python has loaded
by then, and its errors must not reach the program: a failed registration is one warning.
"""

import os
import sys

TYPE_CHECKING = False  # `typing` is not loaded at start-up
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

SWITCH = "ANOMALIB_GRAD_DISABLE"
PACKAGE = "anomalib_grad"
REGISTRIES = ("anomalib.data", "anomalib.models")


def install() -> None:
    """Insert the hook before Python's finders, unless ``ANOMALIB_GRAD_DISABLE=1`` switches it off."""
    installed = any(isinstance(finder, RegistrationHook) for finder in sys.meta_path)  # venvs run .pth files twice
    if not installed and os.environ.get(SWITCH, "0") in {"", "0"}:
        sys.meta_path.insert(0, RegistrationHook())


class RegistrationHook:
    """Finder on ``sys.meta_path`` that runs the registration once anomalib's registries are imported.

    Registration imports this package, which imports anomalib. So it waits until no module of either is partly imported:
    it runs when the outermost watched import ends, whether it succeeds or fails. In anomalib the hook watches the
    packages directly below ``anomalib``, whose parts import one another. It does not watch those parts, whose warnings
    would then point to a line of this file. After the last registry it removes itself.
    """

    def __init__(self) -> None:
        self._sought: list[str] = []  # names that the other finders are being asked for
        self._running: list[str] = []  # watched imports in progress
        self._imported: list[str] = []  # registries that are imported but not yet registered with
        self._awaited = set(REGISTRIES)

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec of the other finders, with a loader that reports when the module is imported."""
        package, _, part = name.partition(".")
        if package != PACKAGE and (package != "anomalib" or "." in part):
            return None
        if name in self._sought:  # another finder is asking all finders in turn
            return None
        self._sought.append(name)
        try:
            for finder in sys.meta_path:
                spec = None if finder is self else finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        self._watch(spec.loader, name)
                    return spec
        except Exception as fault:  # noqa: BLE001  # a hook must not break other people's imports
            self._give_up(fault)
        finally:
            self._sought.remove(name)
        return None

    def _watch(self, loader: "Loader", name: str) -> None:
        execute = loader.exec_module

        def exec_module(module: "ModuleType") -> None:
            vars(loader).pop("exec_module", None)  # back to the loader's own method
            self._running.append(name)
            broken = name.partition(".")[0] == PACKAGE  # until imported: if this package fails, its own error is enough
            try:
                execute(module)
                broken = False
                if name in self._awaited:
                    self._awaited.remove(name)
                    self._imported.append(name)
            finally:
                self._running.remove(name)
                if not (self._running or broken):
                    self._register()

        loader.exec_module = exec_module  # type: ignore[method-assign]

    def _register(self) -> None:
        if not self._awaited:
            self._remove()
        registries, self._imported = self._imported, []
        if not registries:
            return
        try:
            from anomalib_grad.plugin.registration import register_with  # noqa: PLC0415

            for name in registries:
                register_with(sys.modules[name])
        except Exception as fault:  # noqa: BLE001  # anomalib must stay usable without GRAD
            self._give_up(fault)

    def _give_up(self, fault: Exception) -> None:
        import warnings  # noqa: PLC0415

        self._awaited.clear()
        self._imported.clear()
        self._remove()
        warnings.warn(
            f"GRAD could not be registered with anomalib ({type(fault).__name__}: {fault}). Install versions of "
            f"anomalib-grad and anomalib that fit each other, or set {SWITCH}=1 to use anomalib without GRAD.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
