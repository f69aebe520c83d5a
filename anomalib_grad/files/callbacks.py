# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What the states of callbacks in a checkpoint would have Lightning do to files."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any


def find_fault_of_callbacks(states: Mapping[Any, Any]) -> str | None:
    """Look for a reason not to give callbacks the states that a checkpoint holds.

    A resumed training deletes the checkpoints that it has written better ones for, folders with all that is in them.
    Lightning makes sure that they lie in its folder, but takes ``..`` for a name, and every URL for its own.

    Args:
        states: States by the names of the callbacks.

    Returns:
        The fault, to follow the file's name in a sentence; ``None`` if there is none.
    """
    for state in states.values():
        if isinstance(state, Mapping) and "best_model_path" in state:
            astray = next((path for path in _paths(state) if _leads_astray(path, state.get("dirpath"))), None)
            if astray is not None:
                return f"going on from it could delete {str(astray)[:200]!r}, which is outside of its folder"
    return None


def _paths(state: Mapping[Any, Any]) -> Iterator[Any]:
    """Give the paths of checkpoints in the state of a ``ModelCheckpoint``."""
    yield from (state.get(key) or "" for key in ("best_model_path", "kth_best_model_path", "last_model_path"))
    yield from state.get("best_k_models") or ()


def _leads_astray(path: object, folder: object) -> bool:
    """Tell whether a path is none, leads up after it led down, or is a URL beyond the folder's."""
    if not isinstance(path, str):
        return True
    if "://" in path and not path.startswith(f"{folder}/"):
        return True
    parts = PurePath(path).parts
    down = next((place for place, part in enumerate(parts) if part != ".."), len(parts))
    return ".." in parts[down:]
