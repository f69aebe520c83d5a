# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pixels of an opened image or mask, by one rule for training, prediction and exported models.

For 8-bit images the values equal anomalib's. Its own reader turns 16-bit images white and guesses at other kinds.

==============================  ===========================================  ==========================================
file                            as an image                                  as a mask
==============================  ===========================================  ==========================================
grey, RGB, 1 bit                unchanged, grey in all three channels        anomalous where any channel is above 0
palette                         its colours                                  the same, of its colours
CMYK, YCbCr, Lab                Pillow's RGB                                 the same, of Pillow's RGB
16-bit grey (PNG, PGM, TIFF)    value / 65535, or / (2 ** ``bits`` - 1)      above 0
16-bit grey TIFF, 0 is white    1 - that                                     above 0
16-bit RGB                      the high byte of each value                  the same, of the high bytes
16-bit RGB TIFF in planes       refused: Pillow mixes them up                refused
grey or colour with alpha       alpha is dropped                             dropped; refused if it hides what is marked
floating point                  refused: the value of white is unknown       above 0; refused if any is not a number
32-bit or signed integers       refused, as floating point                   above 0, signed ones of 8 bits refused
turned by its tags: TIFF        turned, as Pillow does                       the same
turned by EXIF: other formats   not turned: pixels as they are stored        the same
saved with loss: JPEG, WebP,    unchanged                                    above half of its largest value
JPEG 2000
several frames or pages         the first                                    the first
any size from 1 x 1             resized to the model's input                 must have the size of the image
above 178 million pixels        refused by Pillow's guard; read up to        the same
                                ``max_pixels`` if that is given
damaged, empty, or no image     refused                                      refused
==============================  ===========================================  ==========================================

The content of a file decides, not its suffix. The suffix only decides whether a folder's listing includes the file
(``listing.py``).
"""

from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

EIGHT_BIT_STEP = np.float32(1 / 255)  # pixels are multiplied with it, as in torchvision
_LOSSY = {"JPEG", "JPEG2000", "MPO", "WEBP"}
_STRIP = 64  # rows
_SIXTEEN_BITS = "I;16"  # and I;16B, I;16L, I;16N
_SCALED_TO_SIXTEEN_BITS = {"PNG", "PPM"}  # formats of unsigned 16 bits that Pillow may open in its 32-bit mode
_PHOTOMETRIC, _BITS, _PLANES, _SAMPLE_FORMAT = 262, 258, 284, 339  # tags of TIFF files
_ZERO_IS_WHITE, _APART, _SIGNED = 0, 2, 2  # and their values


def read_wrongly_by_anomalib(image: Image.Image) -> bool:
    """Tell, without decoding, whether anomalib's reader, which clips at 255, would lose values of an image."""
    return image.mode in {"I", "F"} or image.mode.startswith(_SIXTEEN_BITS)


def is_lossy(image: Image.Image) -> bool:
    """Tell, without decoding, whether the file's format may have blurred a mask's edges."""
    return image.format in _LOSSY


def check_mode(image: Image.Image) -> None:
    """Check, without decoding, that the values of an image have a known range.

    Raises:
        ValueError: For floating point, for integers of 32 bits or with a sign, and for 16 bits in planes.
    """
    check_layout(image)
    if image.mode == "F" or (image.mode == "I" and image.format not in _SCALED_TO_SIXTEEN_BITS):
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise ValueError(f"it has {kind} values, so it is unknown which value is white; save it with 8 or 16 bits")


def check_layout(image: Image.Image) -> None:
    """Check that Pillow reads the values of a TIFF file correctly.

    Raises:
        ValueError: If Pillow would read signed values as unsigned, or mix up colours stored in separate planes.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "L" and _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise ValueError("it has signed values, so it is unknown which value is white; save it with unsigned values")
    if tags.get(_PLANES) == _APART and max(tags.get(_BITS, (0,))) > 8:  # noqa: PLR2004
        raise ValueError("its 16-bit colours are in separate planes; save it with 8 bits, or interleave the colours")


def rgb_pixels(image: Image.Image, size: tuple[int, int] | None = None, bits: int = 16) -> np.ndarray:
    """Return the pixels of an image as float32 RGB.

    Args:
        image: The opened image.
        size: Height and width to resize to, antialiased; ``None`` keeps those of the image.
        bits: Bits that a 16-bit file uses, 10 to 16.

    Returns:
        RGB, float32 in [0, 1], shape ``(H, W, 3)``.

    Raises:
        ValueError: If the range of its values is unknown, or a value exceeds it.
    """
    check_mode(image)
    if read_wrongly_by_anomalib(image):  # 16 bits, as its mode is checked
        grey = at_most_white(resized(scaled(np.asarray(image), bits)[..., np.newaxis], size))
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _ZERO_IS_WHITE:
            grey = 1 - grey
        return np.repeat(grey, 3, axis=-1)
    if image.mode == "L":
        grey = resized(np.asarray(image)[..., np.newaxis], size)
        return at_most_white(np.repeat(grey, 3, axis=-1).astype(np.float32) * EIGHT_BIT_STEP)
    colours = image if image.mode == "RGB" else image.convert("RGB")  # convert always copies
    pixels = np.asarray(colours) if size is None or enlarges(colours.size[::-1], size) else narrowed(colours, size[1])
    return at_most_white(resized(pixels, size).astype(np.float32) * EIGHT_BIT_STEP)


def check_values(image: Image.Image, bits: int) -> None:
    """Decode an image and check its values.

    Raises:
        ValueError: If the range of its values is unknown, or a value exceeds it.
    """
    check_mode(image)
    image.load()
    if read_wrongly_by_anomalib(image):
        check_bits(np.asarray(image), bits)


def check_bits(pixels: np.ndarray, bits: int) -> None:
    """Check that no value needs more than ``bits`` bits.

    Raises:
        ValueError: If one does.
    """
    white = 2**bits - 1
    if bits < 16 and (largest := int(pixels.max())) > white:  # noqa: PLR2004
        raise ValueError(f"it has a value of {largest}, but bits={bits} allows at most {white}; set bits higher")


def scaled(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Scale integers of ``bits`` bits to float32 in [0, 1].

    Raises:
        ValueError: If a value needs more bits.
    """
    check_bits(pixels, bits)
    values = pixels.astype(np.float32)
    values *= np.float32(1 / (2**bits - 1))  # in place: frames are large
    return values


def resized(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Resize pixels, bilinear with antialiasing: within half a grey level of Pillow, in a tenth of the time.

    Args:
        pixels: uint8 or float32, shape ``(H, W, C)`` or ``(B, H, W, C)``.
        size: Height and width; ``None`` keeps those of the image.

    Returns:
        Pixels in the same range; the input itself if its size fits. For uint8 colours, whose frames are large, the
        width is reduced in whole grey levels and the height in float32. Enlarged pixels are float32 throughout, as
        whole grey levels would show as steps between pixels.
    """
    if size is None or pixels.shape[-3:-1] == size:
        return pixels
    if enlarges(pixels.shape[-3:-1], size):
        pixels = pixels.astype(np.float32)
    if pixels.dtype == np.uint8 and pixels.shape[-1] == 1:  # torch is fast only with colours
        images = pixels.reshape(-1, *pixels.shape[-3:-1])  # (B, H, W)
        grey = [Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR) for image in images]
        return np.stack([np.asarray(image) for image in grey]).reshape(*pixels.shape[:-3], *size, 1)
    if pixels.dtype == np.uint8:
        pixels = antialiased(pixels, (pixels.shape[-3], size[1])).astype(np.float32)
    return antialiased(pixels, size)


def antialiased(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize pixels ``(H, W, C)`` or ``(B, H, W, C)`` in their own type, bilinear with antialiasing."""
    writable = np.require(pixels, requirements=["C", "W"])  # torch warns of any other
    batch = torch.from_numpy(writable.reshape(-1, *pixels.shape[-3:])).permute(0, 3, 1, 2)
    small = functional.interpolate(batch, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    return small.numpy().reshape(*pixels.shape[:-3], *size, pixels.shape[-1])


def narrowed(image: Image.Image, width: int) -> np.ndarray:
    """Resize an RGB image to a width, the first of the two steps of :func:`resized`.

    It works in strips: Pillow already holds four bytes per pixel, and one array of the image would double that.

    Returns:
        uint8, shape ``(H, width, 3)``.
    """
    edges = [*range(0, image.height, _STRIP), image.height]
    strips = (np.asarray(image.crop((0, top, image.width, bottom))) for top, bottom in pairwise(edges))
    return np.concatenate([antialiased(strip, (len(strip), width)) for strip in strips])


def at_most_white(pixels: np.ndarray) -> np.ndarray:
    """Clip pixels at 1, as the weights of a resize sum to 1 only up to rounding."""
    return np.minimum(pixels, np.float32(1))


def enlarges(before: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Tell whether resizing enlarges an image's height or width."""
    return before[0] < size[0] or before[1] < size[1]


def mask_pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels that a mask marks as anomalous.

    Returns:
        Bool, shape ``(H, W)``.

    Raises:
        ValueError: If values are not numbers or are read wrongly, or if marked pixels are transparent.
    """
    check_layout(image)
    if read_wrongly_by_anomalib(image):
        values = np.asarray(image)
        if np.isnan(values).any():
            raise ValueError("it has NaN values")
        return values > 0
    values = np.asarray(image.convert("RGB")).max(axis=-1)
    marked: np.ndarray = values > (values.max() / 2 if is_lossy(image) else 0)
    if image.has_transparency_data and (marked & (np.asarray(image.convert("RGBA"))[..., 3] == 0)).any():
        raise ValueError("it marks transparent pixels")
    return marked
