# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Names of the head's tensors in the authors' files and in :class:`anomalib_grad.components.head.GradHead`."""

import re

# authors' pattern -> ours
_RULES = (
    (r"coord\.(.+)", r"local_representation.coordinates.\1"),
    (r"coord_\.(.+)", r"global_representation.coordinates.\1"),
    (r"query\.0", r"local_representation.grid.cells"),
    (r"query\.1", r"global_representation.grid.cells"),
    (r"recover\.weight", r"fusion.recover.weight"),
    (r"layer\.(\d+)\.conv\.5\.fc\.(.+)", r"fusion.blocks.\1.layers.5.gate.\2"),
    (r"layer\.(\d+)\.conv\.(?!5\.)(.+)", r"fusion.blocks.\1.layers.\2"),
    (r"layer\.0\.(\d+)\.((?:conv|bn)[12]\..+)", r"fusion.blocks.\1.\2"),
)
_INVERSE_RULES = (
    (r"local_representation\.coordinates\.(.+)", r"coord.\1"),
    (r"global_representation\.coordinates\.(.+)", r"coord_.\1"),
    (r"local_representation\.grid\.cells", r"query.0"),
    (r"global_representation\.grid\.cells", r"query.1"),
    (r"fusion\.recover\.weight", r"recover.weight"),
    (r"fusion\.blocks\.(\d+)\.layers\.5\.gate\.(.+)", r"layer.\1.conv.5.fc.\2"),
    (r"fusion\.blocks\.(\d+)\.layers\.(?!5\.)(.+)", r"layer.\1.conv.\2"),
    (r"fusion\.blocks\.(\d+)\.((?:conv|bn)[12]\..+)", r"layer.0.\1.\2"),
)


def from_authors_key(key: str) -> str | None:
    """Translate the authors' key, without their ``module.reconstruction.`` prefix; ``None`` if it is not the head's."""
    return _translate(key, _RULES)


def to_authors_key(key: str) -> str | None:
    """Translate a key of the head's state dict into the authors'; ``None`` where they have no counterpart."""
    return _translate(key, _INVERSE_RULES)


def _translate(key: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return None
