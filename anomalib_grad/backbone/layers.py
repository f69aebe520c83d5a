# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Feature maps of a timm backbone: list them and select those to use."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import timm
import torch

from anomalib_grad.settings import BOTH_LAYERS

from . import tiny  # noqa: F401  # makes timm know the built-in backbone grad_tiny

COARSEST, MIDDLE = "coarsest", "middle"
"""Values of ``layers`` for any backbone: the last of its default layers, and the one halfway through it."""


class FeatureMap(NamedTuple):
    """One feature map of a backbone: index in timm's list, module name, stride in pixels, channels."""

    place: int
    name: str
    stride: int
    channels: int


def list_feature_maps(backbone: str) -> list[FeatureMap]:
    """List the feature maps of a timm backbone, without loading or drawing any weights.

    Raises:
        ValueError: If timm does not know the backbone or its pretraining tag, or if it has no feature maps.
    """
    if not isinstance(backbone, str):
        message = f"backbone must be a timm model's name, got {backbone!r}."
        raise ValueError(message)  # noqa: TRY004  # the error of all arguments out of range
    architecture, _, tag = backbone.partition(".")
    if not timm.is_model(backbone):
        close = timm.list_models(f"*{architecture}*")[:8] or get_close_matches(architecture, timm.list_models(), 8, 0.5)
        hint = f"similar names: {', '.join(close)}; " if close else ""
        raise ValueError(
            f"unknown backbone {backbone!r}: timm has no model of that name; {hint}"
            f"timm.list_models() lists all of them, and 'grad_tiny' is built in."
        )
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and backbone not in tagged:
        hint = f"choose one of {', '.join([architecture, *tagged])}" if tagged else f"choose {architecture!r}"
        raise ValueError(
            f"unknown backbone {backbone!r}: {architecture!r} has no pretrained weights with tag {tag!r}; {hint}."
        )
    with torch.device("meta"):
        model = timm.create_model(backbone, pretrained=False)
    feature_info: list[dict[str, Any]] = getattr(model, "feature_info", None) or []
    if not feature_info:
        raise ValueError(f"backbone {backbone!r} offers no feature maps; choose another.")
    return [
        FeatureMap(place, info["module"], info["reduction"], info["num_chs"]) for place, info in enumerate(feature_info)
    ]


def is_plain_transformer(backbone: str) -> bool:
    """Tell whether a timm backbone is a plain ViT or similar.

    Raises:
        ValueError: If timm does not know the backbone.
    """
    return share_stride(list_feature_maps(backbone))


def share_stride(maps: Sequence[FeatureMap]) -> bool:
    """Tell whether several maps all have the same stride, as in a plain ViT."""
    return len(maps) > 1 and len({feature_map.stride for feature_map in maps}) == 1


def default_layers(maps: Sequence[FeatureMap]) -> list[FeatureMap]:
    """Select the maps at strides 8 and 16.

    If they do not exist, select the maps at one half and three quarters of the depth of a plain ViT, whose maps all
    have the same stride, and the two finest maps of any other backbone.
    """
    by_stride = {feature_map.stride: feature_map for feature_map in maps}
    if {8, 16} <= by_stride.keys():
        return [by_stride[8], by_stride[16]]
    if share_stride(maps):
        return [maps[len(maps) // 2 - 1], maps[3 * len(maps) // 4 - 1]]
    return [by_stride[stride] for stride in sorted(by_stride)[:2]]


def select_layers(backbone: str, layers: Sequence[str] | str | None) -> list[FeatureMap]:
    """Return the feature maps of a backbone that ``layers`` names.

    ``None`` and ``"both"`` select :func:`default_layers`, ``"coarsest"`` only the last of them, and ``"middle"`` the
    middle one of all maps, in a plain ViT at half of its depth.

    Raises:
        ValueError: If a layer is unknown or named twice; the message lists the backbone's layers.
    """
    maps = list_feature_maps(backbone)
    if layers is None or layers == BOTH_LAYERS:
        return default_layers(maps)
    if layers == COARSEST:
        return default_layers(maps)[-1:]
    if layers == MIDDLE:
        return [maps[(len(maps) - 1) // 2]]
    by_name = {feature_map.name: feature_map for feature_map in maps}
    offered = ", ".join(f"{m.name} (stride {m.stride}, {m.channels} channels)" for m in maps)
    named = f"{BOTH_LAYERS!r}, {COARSEST!r} or {MIDDLE!r}"
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        message = f"layers must be a list of names, {named}, got {layers!r}; {backbone!r} offers: {offered}."
        raise ValueError(message)  # noqa: TRY004  # the error of all arguments out of range
    unknown = [layer for layer in layers if layer not in by_name]
    if unknown or len(set(layers)) != len(layers) or not layers:
        no_layer = f"has no layer {', '.join(map(repr, unknown))}"
        problem = no_layer if unknown else f"needs one or more different layers, got {layers}"
        raise ValueError(f"backbone {backbone!r} {problem}; it offers: {offered}; or layers={named}.")
    return sorted((by_name[layer] for layer in layers), key=lambda feature_map: feature_map.place)
