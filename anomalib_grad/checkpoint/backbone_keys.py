# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Names of EfficientNet-B4's tensors in the authors' files and in timm's ``features_only`` network.

The authors number the blocks through, timm by stage; and a stage without expansion (the first) shifts timm's names.
"""

from itertools import accumulate

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
    """Translate the authors' key, without ``module.backbone.``; ``None`` for the classifier and unknown names."""
    layer, _, parameter = key.rpartition(".")
    return f"{_LAYERS[layer]}.{parameter}" if layer in _LAYERS else None


def backbone_to_authors_key(key: str) -> str | None:
    """Translate timm's key into the authors'; ``None`` where they have no counterpart."""
    layer, _, parameter = key.rpartition(".")
    return f"{_AUTHORS_LAYERS[layer]}.{parameter}" if layer in _AUTHORS_LAYERS else None


def layer_of_block(block: int) -> str | None:
    """Name timm's layer that ends with the authors' block number ``block``; ``None`` if no stage ends there."""
    return f"blocks.{_FIRST_BLOCKS.index(block + 1) - 1}" if block + 1 in _FIRST_BLOCKS[1:] else None


def last_block_of_layer(layer: str) -> int:
    """Give the authors' number of the last block of timm's layer ``blocks.<stage>``."""
    return _FIRST_BLOCKS[int(layer.removeprefix("blocks.")) + 1] - 1
