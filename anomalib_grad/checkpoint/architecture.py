# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What the configuration in an authors' file says about backbone, layers and image size."""

from anomalib_grad.backbone.frozen import DEFAULT_BACKBONE, is_faithful
from anomalib_grad.files.arguments import is_oversized

from .archive import AuthorsCheckpointError
from .authors_file import AuthorsFile
from .keys import layer_of_block

AUTHORS_BACKBONE = "models.backbones.efficientnet_b4"
TIMM = "timm."
"""Prefix of a backbone's type in files that this package wrote from another backbone than the authors'."""
_DEFAULT_STRIDE, _MOST_STRIDE = 8, 64


def noted_backbone(file: AuthorsFile) -> str | None:
    """Name the timm backbone that a file was trained with; ``None`` if it does not say, or one unknown here.

    A file without configuration whose backbone tensors are named as EfficientNet's is taken for EfficientNet-B4.

    Raises:
        AuthorsCheckpointError: If the backbone is far too large to be in the file.
    """
    kind = _kind(file)
    if is_timms(file):
        name = str(kind).removeprefix(TIMM)
        if is_oversized(name, file.path.stat().st_size):
            raise AuthorsCheckpointError(
                f"{str(file.path)!r} notes backbone {name!r}, which is far larger than the file; name the one that it "
                f"was trained with by --backbone (timm's name)."
            )
        return name
    if kind is None and "_conv_stem.weight" in file.backbone:
        return DEFAULT_BACKBONE
    return DEFAULT_BACKBONE if kind == AUTHORS_BACKBONE else None


def is_timms(file: AuthorsFile) -> bool:
    """Tell whether a file notes a timm backbone, as this package's do; its tensors then have timm's names."""
    return str(_kind(file)).startswith(TIMM)


def noted_layers(file: AuthorsFile, backbone: str) -> list[str] | None:
    """Name the feature maps that a file was trained with; ``None`` for the backbone's default ones.

    Raises:
        AuthorsCheckpointError: If the file's neck joins maps in a way that this package does not.
    """
    settings, neck = file.settings("backbone"), file.settings("neck")
    strides, joined_at = _integers(neck.get("instrides")), _integers(neck.get("outstrides"))
    if strides and joined_at and joined_at != [min(strides)]:
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} joins feature maps of strides {strides} at stride {joined_at}; "
            f"only models that join them at the finest can be converted."
        )
    if _kind(file) == f"{TIMM}{backbone}":
        noted = settings.get("layers")
        return [str(layer) for layer in noted] if isinstance(noted, list | tuple) else None
    blocks = _integers(settings.get("outblocks"))
    if not blocks or not is_faithful(backbone):
        return None
    layers = [layer for block in blocks if (layer := layer_of_block(block))]
    if len(layers) != len(blocks) or blocks != sorted(set(blocks)):
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} takes features after blocks {blocks} of EfficientNet-B4; "
            f"only ascending ends of stages (1, 5, 9, 15, 21, 29, 31) can be converted."
        )
    return layers


def noted_image_size(file: AuthorsFile, feature_size: tuple[int, int]) -> tuple[int, int]:
    """Give the size of a file's images in pixels: as noted, else the feature maps' size times their stride.

    Raises:
        AuthorsCheckpointError: If the noted size is beyond what any backbone would make such maps of.
    """
    noted = _integers(file.settings("backbone").get("image_size"))
    if len(noted) == 2:  # noqa: PLR2004  # height and width
        if any(side > _MOST_STRIDE * cells for side, cells in zip(noted, feature_size, strict=True)):
            raise AuthorsCheckpointError(
                f"{str(file.path)!r} notes images of {noted[0]} x {noted[1]} pixels, from which no backbone makes "
                f"its maps of {feature_size[0]} x {feature_size[1]}; name their size with --image-size HEIGHT WIDTH."
            )
        return noted[0], noted[1]
    stride = (_integers(file.settings("neck").get("outstrides")) or [_DEFAULT_STRIDE])[0]
    return feature_size[0] * stride, feature_size[1] * stride


def _kind(file: AuthorsFile) -> object:
    return file.architecture.get("backbone", {}).get("type")


def _integers(value: object) -> list[int]:
    """Give a list of integers; an empty one if ``value`` is anything else."""
    if isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
        return list(value)
    return []
