# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Names of the head's tensors in the authors' files and in :class:`anomalib_grad.components.head.GradHead`."""

import re

# authors', ours
_NAMES = (
    ("coord.<rest>", "local_representation.coordinates.<rest>"),
    ("coord_.<rest>", "global_representation.coordinates.<rest>"),
    ("query.0", "local_representation.grid.cells"),
    ("query.1", "global_representation.grid.cells"),
    ("recover.weight", "fusion.recover.weight"),
    ("layer.<n>.conv.5.fc.<rest>", "fusion.blocks.<n>.layers.5.gate.<rest>"),
    ("layer.<n>.conv.<other>", "fusion.blocks.<n>.layers.<other>"),
    ("layer.0.<n>.<residual>", "fusion.blocks.<n>.<residual>"),
)
_PARTS = {
    "<rest>": r"(.+)",
    "<n>": r"(\d+)",
    "<other>": r"((?!5\.).+)",
    "<residual>": r"((?:conv|bn)[12]\..+)",
}
_PART = re.compile("|".join(_PARTS))


def from_authors_key(key: str) -> str | None:
    """Translate the authors' key, without their ``module.reconstruction.`` prefix; ``None`` if it is not the head's."""
    return next((name for theirs, ours in _NAMES if (name := _renamed(key, theirs, ours))), None)


def to_authors_key(key: str) -> str | None:
    """Translate a key of the head's state dict into the authors'; ``None`` where they have no counterpart."""
    return next((name for theirs, ours in _NAMES if (name := _renamed(key, ours, theirs))), None)


def _renamed(key: str, before: str, after: str) -> str | None:
    match = re.fullmatch(_PART.sub(lambda part: _PARTS[part[0]], before.replace(".", r"\.")), key)
    parts = iter(match.groups() if match else ())
    return None if match is None else _PART.sub(lambda _: next(parts), after)
