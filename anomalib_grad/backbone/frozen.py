# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen timm backbone: maps images to one feature map (method section 1)."""

import math
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import Format
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torch.nn import functional

from anomalib_grad.data.resizing import resize_antialiased

from .layers import list_feature_maps, select_layers
from .remove_unused import cut, cut_unused
from .tiling import check_tiles, map_tiles
from .weights import load_pretrained

if TYPE_CHECKING:
    from anomalib.data.utils.tiler import Tiler

FAITHFUL_BACKBONE = "tf_efficientnet_b4"
DEFAULT_BACKBONE = "tf_efficientnet_b4.aa_in1k"


def is_faithful(backbone: str) -> bool:
    """Tell whether ``backbone`` is the authors' EfficientNet-B4."""
    return str(backbone).partition(".")[0] == FAITHFUL_BACKBONE  # listing its maps refuses other types


MIN_CELLS = 2
"""Fewest cells along each side of a feature map; a single cell cannot tell where in the image an anomaly is."""
SIZE_ERRORS = (RuntimeError, AssertionError, ValueError)
"""Errors that timm's networks raise for image sizes that they cannot take."""


def use_static_padding(network: nn.Module) -> None:
    """Use the padding of the authors' EfficientNet-B4 port: that of 380-pixel images, whatever the input.

    At 224 pixels it differs from timm's in one convolution: padding 2 on all sides instead of (1, 2).
    """
    block = network.get_submodule("blocks.2.0")
    same: Any = block.conv_dw
    block.conv_dw = nn.Conv2d(
        same.in_channels, same.out_channels, same.kernel_size, same.stride, padding=2, groups=same.groups, bias=False
    )
    block.conv_dw.load_state_dict(same.state_dict())


def check_size(size: Sequence[int], least: float, demand: str) -> tuple[int, int]:
    """Return height and width; raise ``ValueError`` unless they are two whole numbers of at least ``least``."""
    match size:
        case [int(height), int(width)] if min(height, width) >= least:
            return height, width
    raise ValueError(f"{demand} got {size!r}.")


def resize_map(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a feature map ``(B, C, H, W)``: enlarge as the authors do, reduce with antialiasing."""
    height, width = feature_map.shape[-2:]
    if (height, width) == size:
        return feature_map
    if height <= size[0] and width <= size[1]:
        return functional.interpolate(feature_map, size, mode="bilinear", align_corners=True)
    return resize_antialiased(feature_map, size)


def _keep(  # a hook
    maps: dict[str, Tensor],
    name: str,
    thread: int,
    _module: nn.Module,
    _inputs: Any,  # noqa: ANN401
    output: Tensor,
) -> None:
    if threading.get_ident() == thread:  # a module calls the hooks of all threads that run it
        maps[name] = output


def _stage(network: nn.Module, name: str) -> nn.Module:
    """Return the stage that ``feature_info`` calls ``blocks.3``; where timm flattens a network, it is ``blocks_3``."""
    flat = name.replace(".", "_")
    return network.get_submodule(flat if hasattr(network, flat) else name)


def _example(image_size: tuple[int, int]) -> Tensor:
    """Return a batch of one image ``(1, 3, H, W)`` without drawing random numbers."""
    return torch.arange(3.0 * math.prod(image_size)).sin().view(1, 3, *image_size)


class FrozenBackbone(nn.Module):
    """Pretrained feature extractor with fixed weights, always in eval mode.

    Args:
        name: timm model name, with or without a pretraining tag, or ``grad_tiny``, whose weights come with this
            package.
        layers: Names of the feature maps to use (timm's module names). ``None`` takes the maps at strides 8 and 16,
            ``"coarsest"`` only that at stride 16, ``"coarsest_stages"`` the last two stages' at stride 16,
            ``"middle"`` the middle one of all maps.
        pre_trained: ``True`` loads timm's weights from its hub or local cache, ``False`` draws random ones, a path
            loads a local safetensors or pth file.
        image_size: Height and width of the input in pixels.
        faithful_padding: Pad EfficientNet-B4 as the authors' port does; no effect on other backbones.
        feature_size: Height and width to which all maps are resized; ``None`` takes those of the finest map.

    Attributes:
        channels: Channels C of the feature map.
        feature_size: Height and width of the feature map.
        map_shapes: Channels, height and width of each of the joined maps.
        mean, std: Normalisation that the pretrained weights expect, for images in [0, 1].

    Raises:
        ValueError: If the backbone or a layer is unknown, if the backbone cannot take the image size, or if a feature
            map would have fewer than two cells along a side.
    """

    def __init__(
        self,
        name: str = DEFAULT_BACKBONE,
        layers: Sequence[str] | str | None = None,
        pre_trained: bool | str | Path = True,
        image_size: tuple[int, int] = (224, 224),
        faithful_padding: bool = True,
        feature_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.pre_trained = pre_trained
        demand = "image_size must be height and width in whole pixels, such as [224, 224];"
        self.image_size = check_size(image_size, -math.inf, demand)
        self.maps = select_layers(name, layers)
        config = timm.get_pretrained_cfg(name) or PretrainedCfg()
        self.mean, self.std = tuple(config.mean), tuple(config.std)
        self._static_padding = faithful_padding and is_faithful(name)
        self._fixed_input_size = config.fixed_input_size
        self._weights_ready = pre_trained is False
        self._unused: list[str] = []
        self._tiler: Tiler | None = None
        self.map_shapes = self._probe(seed=None if pre_trained is False else 0)
        demand = f"feature_size must be height and width of at least {MIN_CELLS} cells,"
        self._common_size = None if feature_size is None else check_size(feature_size, MIN_CELLS, demand)
        self.feature_size = self._common_size or self.map_shapes[0][1:]
        self.channels = sum(feature_map.channels for feature_map in self.maps)
        self.requires_grad_(requires_grad=False)
        self.train(mode=False)

    @property
    def layers(self) -> list[str]:
        """Names of the feature maps in use."""
        return [feature_map.name for feature_map in self.maps]

    @property
    def _places(self) -> list[int]:
        """Indices of the outputs that timm's network has to return."""
        return sorted({feature_map.place for feature_map in self.maps})

    @property
    def tiler(self) -> "Tiler | None":
        """Anomalib's tiler, if the network is to see tiles of the images.

        Raises:
            ValueError: When set, if the network takes images of one size only, or the tiles do not fit.
        """
        return self._tiler

    @tiler.setter
    def tiler(self, tiler: "Tiler | None") -> None:
        if tiler is not None:
            if self._fixed_input_size:
                raise ValueError(
                    f"backbone {self.name!r} takes images of one size only, so it cannot use tiles: choose a "
                    f"convolutional backbone, or train without tiling."
                )
            check_tiles(tiler, self.name, [feature_map.stride for feature_map in self.maps], self.image_size)
        self._tiler = tiler

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Stay in eval mode for any ``mode``: frozen statistics are part of the method."""
        return super().train(mode=False)

    def mark_weights_ready(self) -> None:
        """Record that a checkpoint brought the weights, so that none are fetched."""
        self._weights_ready = True

    def ensure_weights(self) -> None:
        """Load the pretrained weights unless they are loaded.

        Raises:
            BackboneWeightsError: If they are unavailable. Random weights never replace them.
        """
        if self._weights_ready:
            return
        pretrained = load_pretrained(
            self.name, Path(self.pre_trained) if isinstance(self.pre_trained, str | Path) else None, self._build
        )
        self.network.load_state_dict(pretrained)
        self._weights_ready = True

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to features ``(B, C, h, w)``."""
        return self.join(self.feature_maps(images))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Map normalised images ``(B, 3, H, W)`` to the used maps at their own sizes, finest first."""
        self.ensure_weights()
        images = images.to(next(self.network.parameters()).dtype)  # anomalib's batches stay float32 in any trainer
        with torch.no_grad():
            return self._run(images) if self._tiler is None else map_tiles(self._tiler, self._run, images)

    def _run(self, images: Tensor) -> list[Tensor]:
        # Channels last in memory halves the time of a batch's convolutions.
        return self._maps_of(self.network, images.contiguous(memory_format=torch.channels_last))

    def _maps_of(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """Run a network of :meth:`_build` and return the used maps: its outputs, and those of stages inside it."""
        inside: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for feature_map in self.maps:
                if not feature_map.listed:
                    keep = partial(_keep, inside, feature_map.name, threading.get_ident())
                    hooks.enter_context(_stage(network, feature_map.name).register_forward_hook(keep))
            listed = dict(zip(self._places, network(images), strict=True))
        return self._channels_first([listed[m.place] if m.listed else inside[m.name] for m in self.maps])

    @property
    def row_length(self) -> int:
        """Number of values in all maps of an image."""
        return sum(map(math.prod, self.map_shapes))

    def rows(self, images: Tensor) -> Tensor:
        """Compute the maps of images ``(B, 3, H, W)``, flattened and concatenated: ``(B, row_length)``."""
        return self.flatten(self.feature_maps(images))

    @staticmethod
    def flatten(maps: Sequence[Tensor]) -> Tensor:
        """Flatten and concatenate maps ``(B, C, h, w)`` of the same images: ``(B, row_length)``."""
        return torch.cat([feature_map.flatten(1) for feature_map in maps], dim=1)

    def unflatten(self, rows: Tensor) -> list[Tensor]:
        """Restore the shapes of flattened and concatenated maps ``(B, row_length)``."""
        parts = rows.split([math.prod(shape) for shape in self.map_shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.map_shapes, strict=True)]

    def join(self, maps: Sequence[Tensor]) -> Tensor:
        """Resize all maps to one size, by default that of the finest, and concatenate them: ``(B, C, h, w)``."""
        size = self._common_size or (maps[0].shape[-2], maps[0].shape[-1])
        return torch.cat([resize_map(feature_map, size) for feature_map in maps], dim=1)

    def _channels_first(self, maps: list[Tensor]) -> list[Tensor]:
        """Return maps as ``(B, C, h, w)``, also in memory; Swin and a few other networks give channels last."""
        channels_last = getattr(self.network, "output_fmt", Format.NCHW) == Format.NHWC
        return [(m.permute(0, 3, 1, 2) if channels_last else m).contiguous() for m in maps]

    def _build(
        self,
        seed: int | None,
        image_size: tuple[int, int] | None = None,
        **pretrained: Any,  # noqa: ANN401  # timm's arguments
    ) -> nn.Module:
        """Build the network without unused modules; the same ``seed`` draws the same initial weights."""
        size: dict[str, Any] = {"img_size": image_size or self.image_size} if self._fixed_input_size else {}
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            network = timm.create_model(
                self.name,
                features_only=True,
                out_indices=self._places,
                **size,
                **pretrained,
            )
        cut(network, self._unused)
        if self._static_padding:
            use_static_padding(network)
        return network.eval()

    def _probe(self, seed: int | None) -> list[tuple[int, int, int]]:
        """Build the network, remove unused modules and return the shapes of its maps; refuse sizes that do not fit."""
        try:
            self.network = self._build(seed)
            example = _example(self.image_size)
            self._unused = cut_unused(self.network, example)
            with torch.no_grad():
                shapes = [tuple(m.shape[1:]) for m in self._maps_of(self.network, example)]
        except SIZE_ERRORS as error:
            raise self._size_error() from error
        if min(map(min, shapes)) < 1 or self._drops_pixels([shape[1:] for shape in shapes]):
            raise self._size_error()
        if min(min(shape[1:]) for shape in shapes) < MIN_CELLS:
            height, width = self.image_size
            coarsest = max(self.maps, key=lambda feature_map: feature_map.stride)
            side = MIN_CELLS * coarsest.stride
            raise ValueError(
                f"images of {height} x {width} pixels are too small for layer {coarsest.name!r} of backbone "
                f"{self.name!r}, where each cell spans {coarsest.stride} pixels: choose an image_size of at least "
                f"{[side, side]}."
            )
        return [(channels, height, width) for channels, height, width in shapes]

    def _drops_pixels(self, sizes: Sequence[Sequence[int]]) -> bool:
        """Tell whether patches leave out a strip at the border, over which the maps would be stretched."""
        return self._fixed_input_size and any(
            side % feature_map.stride and length * feature_map.stride < side
            for feature_map, size in zip(self.maps, sizes, strict=True)
            for side, length in zip(self.image_size, size, strict=True)
        )

    def _takes(self, image_size: tuple[int, int]) -> bool:
        """Tell whether the network runs on images of this size."""
        try:
            with torch.no_grad():
                maps = self._build(0, image_size)(_example(image_size))
        except SIZE_ERRORS:
            return False
        return all(m.numel() for m in maps)

    def _size_error(self) -> ValueError:
        """Build an error that suggests sizes which the network can take."""
        problem = f"backbone {self.name!r} cannot take images of {self.image_size[0]} x {self.image_size[1]} pixels"
        step = math.lcm(*(feature_map.stride for feature_map in list_feature_maps(self.name)))
        least = math.ceil(MIN_CELLS * max(feature_map.stride for feature_map in self.maps) / step)
        nearest = [step * max(least, round(side / step)) for side in self.image_size]
        if self._takes((nearest[0], nearest[1])):
            return ValueError(
                f"{problem}: choose an image_size whose height and width are multiples of {step}, "
                f"for instance {nearest}."
            )
        native = (timm.get_pretrained_cfg(self.name) or PretrainedCfg()).input_size[1:]
        if self._takes(native):
            return ValueError(f"{problem}: choose image_size={list(native)}, the size that it was trained at.")
        return ValueError(f"{problem}, nor of the size that it was trained at: choose another backbone.")
