# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Tiled input, by anomalib's tiler: the backbone sees tiles of an image, the head features of the whole image.

As in anomalib's other models, ``TilerConfigurationCallback`` sets the tiler. The tiler is part of the trained model, so
checkpoints include it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from anomalib.data.utils.tiler import Tiler


def check_tiles(tiler: "Tiler", backbone: str, strides: Sequence[int], image_size: tuple[int, int]) -> None:
    """Refuse tiles whose features do not fit together; strides of the backbone's maps and sizes are in pixels.

    Raises:
        ValueError: If a size is impossible, a tile is larger than the image, tiles do not begin and end between two
            cells of every map, tiles do not cover the image exactly, or the tiler would stretch images. anomalib's
            tiler undoes padding and stretching in pixels, but here it joins cells.
    """
    tile, step = (tiler.tile_size_h, tiler.tile_size_w), (tiler.stride_h, tiler.stride_w)
    tiles = in_words(tiler)
    if min(*tile, *step) < 1 or tiler.remove_border_count < 0:
        raise ValueError(
            f"{tiles} are impossible: choose a tile_size and a stride of at least 1, and a remove_border_count of at "
            f"least 0."
        )
    if tile[0] > image_size[0] or tile[1] > image_size[1]:
        raise ValueError(
            f"tiles of {tile[0]} x {tile[1]} pixels are larger than the model's input of {image_size[0]} x "
            f"{image_size[1]}: choose smaller tiles or a larger image_size."
        )
    cell = max(strides)
    if any(length % cell for length in (*tile, *step)):
        raise ValueError(
            f"{tiles} cut through cells of backbone {backbone!r}: choose a tile_size and a stride that are multiples "
            f"of {cell}."
        )
    if any((side - length) % advance for side, length, advance in zip(image_size, tile, step, strict=True)):
        raise ValueError(
            f"{tiles} do not fit exactly into the model's input of {image_size[0]} x {image_size[1]} pixels: choose an "
            f"image_size that they cover exactly."
        )
    if tiler.mode.value != "padding":
        raise ValueError(f"tiles in mode {tiler.mode.value!r} would stretch the features: choose mode 'padding'.")


def map_tiles(tiler: "Tiler", network: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> list[Tensor]:
    """Compute feature maps of images ``(B, 3, H, W)`` tile by tile, and join those of each image.

    The network takes tiles ``(B * T, 3, h, w)``. Overlapping tiles are averaged.
    """
    maps = network(tiler.tile(images).to(images.dtype))  # the tiler converts to float32
    return [tiler.untile(feature_map).to(feature_map.dtype) for feature_map in maps]


def in_words(tiler: "Tiler | None") -> str:
    """Describe in words what the backbone sees of an image."""
    if tiler is None:
        return "whole images"
    tile, step = f"{tiler.tile_size_h} x {tiler.tile_size_w}", f"{tiler.stride_h} x {tiler.stride_w}"
    return f"tiles of {tile} pixels every {step}"


def describe(tiler: "Tiler | None") -> dict[str, Any] | None:
    """Return a tiler's arguments as plain data; ``None`` for no tiler."""
    if tiler is None:
        return None
    return {
        "tile_size": [tiler.tile_size_h, tiler.tile_size_w],
        "stride": [tiler.stride_h, tiler.stride_w],
        "remove_border_count": tiler.remove_border_count,
        "mode": str(tiler.mode.value),
    }


def rebuild(description: dict[str, Any] | None) -> "Tiler | None":
    """Build a tiler from the result of :func:`describe`."""
    if description is None:
        return None
    from anomalib.data.utils.tiler import ImageUpscaleMode, Tiler  # noqa: PLC0415  # only where images are tiled

    return Tiler(**{**description, "mode": ImageUpscaleMode(description["mode"])})
