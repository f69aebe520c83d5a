# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Tensor names of the head and of EfficientNet-B4: mapping between the authors' files and this package.

The authors number the backbone's blocks consecutively, timm numbers them by stage. In timm, layers have other names in
the first stage, which has no expansion.
"""

import re
from itertools import accumulate

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
    """Translate an authors' key without the prefix ``module.reconstruction.``; ``None`` if it is not the head's."""
    return next((name for theirs, ours in _NAMES if (name := _renamed(key, theirs, ours))), None)


def to_authors_key(key: str) -> str | None:
    """Translate a key of the head's state dict to the authors'; ``None`` if there is no counterpart."""
    return next((name for theirs, ours in _NAMES if (name := _renamed(key, ours, theirs))), None)


def _renamed(key: str, before: str, after: str) -> str | None:
    match = re.fullmatch(_PART.sub(lambda part: _PARTS[part[0]], before.replace(".", r"\.")), key)
    parts = iter(match.groups() if match else ())
    return None if match is None else _PART.sub(lambda _: next(parts), after)


_STAGES = (2, 4, 4, 6, 6, 8, 2)  # blocks in each stage of EfficientNet-B4
_FIRST_BLOCKS = (0, *accumulate(_STAGES))

_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
_GATE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_GATE}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **_GATE,
}
_LAYERS = _STEM | {
    f"_blocks.{_FIRST_BLOCKS[stage] + block}.{theirs}": f"blocks.{stage}.{block}.{ours}"
    for stage, blocks in enumerate(_STAGES)
    for block in range(blocks)
    for theirs, ours in (_OTHER_STAGES if stage else _FIRST_STAGE).items()
}
_AUTHORS_LAYERS = {ours: theirs for theirs, ours in _LAYERS.items()}


def backbone_from_authors_key(key: str) -> str | None:
    """Translate an authors' key without the prefix ``module.backbone.``; ``None`` for classifier and unknown keys."""
    layer, _, parameter = key.rpartition(".")
    return f"{_LAYERS[layer]}.{parameter}" if layer in _LAYERS else None


def backbone_to_authors_key(key: str) -> str | None:
    """Translate a timm key to the authors'; ``None`` if there is no counterpart."""
    layer, _, parameter = key.rpartition(".")
    return f"{_AUTHORS_LAYERS[layer]}.{parameter}" if layer in _AUTHORS_LAYERS else None


def layer_of_block(block: int) -> str | None:
    """Return timm's name of the layer that ends with the authors' block ``block``; ``None`` if no stage ends there."""
    return f"blocks.{_FIRST_BLOCKS.index(block + 1) - 1}" if block + 1 in _FIRST_BLOCKS[1:] else None


def last_block_of_layer(layer: str) -> int:
    """Return the authors' number of the last block of timm's layer ``blocks.<stage>``."""
    return _FIRST_BLOCKS[int(layer.removeprefix("blocks.")) + 1] - 1
