# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Names that a room hands out, imported when they are first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(room: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Give the ``__getattr__`` (PEP 562) of the room of that ``__name__``, in whose files each name has its home."""

    def find(name: str) -> Any:  # noqa: ANN401  # the type of whichever public name is asked for
        if name not in homes:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(f".{homes[name]}", room), name)

    return find
