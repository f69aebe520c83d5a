# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Feature maps of a timm backbone: list them and select those to use."""

import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from anomalib_grad.settings import BOTH_LAYERS

from . import tiny  # noqa: F401  # makes timm know the built-in backbone grad_tiny

COARSEST, COARSEST_STAGES, MIDDLE = "coarsest", "coarsest_stages", "middle"
"""Values of ``layers`` for any backbone: the last of its default layers, the last two stages of that one's stride,
and the one halfway through the backbone."""


class FeatureMap(NamedTuple):
    """One feature map of a backbone.

    Attributes:
        place: Index in timm's list of the map, or of the next one in that list.
        name: Name of the module whose output it is.
        stride: Stride in pixels.
        channels: Number of channels.
        listed: Whether it is in timm's list, which has one map for each stride.
    """

    place: int
    name: str
    stride: int
    channels: int
    listed: bool = True


def list_feature_maps(backbone: str) -> list[FeatureMap]:
    """List the feature maps of a timm backbone from the finest, without loading or drawing any weights.

    timm lists the last stage of each stride. Stages before it are listed as well, where networks have them, as
    EfficientNets and MobileNets do.

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
    maps = _feature_maps(backbone)
    if not maps:
        raise ValueError(f"backbone {backbone!r} offers no feature maps; choose another.")
    return list(maps)


@cache  # half a second
def _feature_maps(backbone: str) -> tuple[FeatureMap, ...]:
    with torch.device("meta"):
        model = timm.create_model(backbone, pretrained=False).eval()
    feature_info: list[dict[str, Any]] = getattr(model, "feature_info", None) or []
    maps = [
        FeatureMap(place, info["module"], info["reduction"], info["num_chs"]) for place, info in enumerate(feature_info)
    ]
    between = dict(_stages_between(model, maps))
    if between:
        shapes: dict[str, torch.Size] = {}
        for name in between:
            model.get_submodule(name).register_forward_hook(partial(_note_shape, shapes, name))
        size = (timm.get_pretrained_cfg(backbone) or PretrainedCfg()).input_size
        with torch.no_grad():
            model(torch.empty(1, *size, device="meta"))
        maps += [
            FeatureMap(place, name, 2 ** round(math.log2(size[-1] / shapes[name][-1])), shapes[name][1], listed=False)
            for name, place in between.items()
        ]
    return tuple(sorted(maps, key=lambda feature_map: (feature_map.place, feature_map.listed)))


def _stages_between(model: nn.Module, maps: Sequence[FeatureMap]) -> Iterator[tuple[str, int]]:
    """Yield the names of stages between the stages of two of timm's maps, and the place of the second map."""
    for before, after in pairwise(maps):
        (stages, _, first), (same, _, last) = before.name.rpartition("."), after.name.rpartition(".")
        if same == stages and first.isdigit() and last.isdigit():
            for number in range(int(first) + 1, int(last)):
                if isinstance(model.get_submodule(f"{stages}.{number}"), nn.Sequential):  # layers in VGG
                    yield f"{stages}.{number}", after.place


def _note_shape(shapes: dict[str, torch.Size], name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:  # noqa: ANN401  # a hook
    shapes[name] = output.shape


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
    maps = [feature_map for feature_map in maps if feature_map.listed]
    by_stride = {feature_map.stride: feature_map for feature_map in maps}
    if {8, 16} <= by_stride.keys():
        return [by_stride[8], by_stride[16]]
    if share_stride(maps):
        return [maps[len(maps) // 2 - 1], maps[3 * len(maps) // 4 - 1]]
    return [by_stride[stride] for stride in sorted(by_stride)[:2]]


def select_layers(backbone: str, layers: Sequence[str] | str | None) -> list[FeatureMap]:
    """Return the feature maps of a backbone that ``layers`` names.

    ``None`` and ``"both"`` select :func:`default_layers`, ``"coarsest"`` only the last of them, ``"coarsest_stages"``
    the last two stages of its stride (one where a network has only one, as most have), and ``"middle"`` the middle one
    of timm's maps, in a plain ViT at half of its depth.

    Raises:
        ValueError: If a layer is unknown or named twice; the message lists the backbone's layers.
    """
    maps = list_feature_maps(backbone)
    if layers is None or layers == BOTH_LAYERS:
        return default_layers(maps)
    if layers == COARSEST:
        return default_layers(maps)[-1:]
    if layers == COARSEST_STAGES:
        (last,) = default_layers(maps)[-1:]
        return [m for m in maps if m == last or (m.stride == last.stride and not m.listed)][-2:]
    if layers == MIDDLE:
        listed = [feature_map for feature_map in maps if feature_map.listed]
        return [listed[(len(listed) - 1) // 2]]
    by_name = {feature_map.name: feature_map for feature_map in maps}
    offered = ", ".join(f"{m.name} (stride {m.stride}, {m.channels} channels)" for m in maps)
    named = f"{BOTH_LAYERS!r}, {COARSEST!r}, {COARSEST_STAGES!r} or {MIDDLE!r}"
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        message = f"layers must be a list of names, {named}, got {layers!r}; {backbone!r} offers: {offered}."
        raise ValueError(message)  # noqa: TRY004  # the error of all arguments out of range
    unknown = [layer for layer in layers if layer not in by_name]
    if unknown or len(set(layers)) != len(layers) or not layers:
        no_layer = f"has no layer {', '.join(map(repr, unknown))}"
        problem = no_layer if unknown else f"needs one or more different layers, got {layers}"
        raise ValueError(f"backbone {backbone!r} {problem}; it offers: {offered}; or layers={named}.")
    return [feature_map for feature_map in maps if feature_map.name in layers]
