# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Image files of every kind that a camera, an editor or a broken disk may leave: what each must become is said here.

Whoever adds a variant gives it a name, its bytes, and its pixels, or ``REFUSED``, or ``EITHER``.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

REFUSED = "refused"
EITHER = "either"
"""A damage that some formats survive: refused or read, but never a crash."""

WIDTH, HEIGHT = 26, 20
LOSSLESS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".bmp": {"format": "BMP"},
    ".ppm": {"format": "PPM"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF", "compression": "tiff_lzw"},
}


class Variant(NamedTuple):
    """A file and what reading it must give."""

    name: str
    content: bytes
    expected: np.ndarray | str  # (H, W, 3) in [0, 1], or REFUSED, or EITHER
    tolerance: float = 1e-6  # largest deviation; that of lossy formats is a mean one of the scene


def scene(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Smooth colours with a bright square, uint8, (H, W, 3); which corner has it tells whether it was rotated."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [80 + 60 * np.sin(random.uniform(0, 3) + rows / 9 + columns / random.uniform(7, 12)) for _ in range(3)]
    pixels = np.stack(waves, axis=-1)
    pixels[: height // 3, : width // 3] = 240
    return pixels.astype(np.uint8)


def encoded(image: Image.Image, **options: Any) -> bytes:
    image.save(buffer := io.BytesIO(), **options)
    return buffer.getvalue()


def colours(pixels: np.ndarray) -> np.ndarray:
    return pixels / 255


def greys(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., np.newaxis], 3, axis=-1)


def tiff(values: np.ndarray, **options: Any) -> bytes:
    tifffile.imwrite(buffer := io.BytesIO(), values, **options)
    return buffer.getvalue()


def pgm(values: np.ndarray) -> bytes:
    """Write 16 bits a pixel, which Pillow cannot in the lowest version that is allowed."""
    return b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype(">u2").tobytes()


# ------------------------------------------------------------------ files that can be read


def modes() -> Iterator[Variant]:
    """Every mode that a format can hold."""
    image, alpha = Image.fromarray(scene()), np.linspace(0, 255, WIDTH * HEIGHT).astype(np.uint8).reshape(HEIGHT, WIDTH)
    grey, palette = image.convert("L"), image.quantize(16)
    see_through, grey_alpha = image.copy(), grey.copy()
    see_through.putalpha(Image.fromarray(alpha))
    grey_alpha.putalpha(Image.fromarray(alpha))
    one_bit = image.convert("1")
    for suffix, options in LOSSLESS.items():
        yield Variant(f"rgb{suffix}", encoded(image, **options), colours(scene()))
        if suffix != ".webp":
            yield Variant(f"grey{suffix}", encoded(grey, **options), greys(np.asarray(grey) / 255))
            yield Variant(f"one_bit{suffix}", encoded(one_bit, **options), greys(np.asarray(one_bit) * 1.0))
        if suffix != ".ppm":
            shown = np.asarray(palette.convert("RGB")) / 255
            yield Variant(f"palette{suffix}", encoded(palette, **options), shown)
            exact = {**options, "exact": True}  # WebP would clear the colours behind transparent pixels
            yield Variant(f"alpha{suffix}", encoded(see_through, **exact), colours(scene()))
    for suffix in (".png", ".tif", ".tiff"):
        yield Variant(f"grey_alpha{suffix}", encoded(grey_alpha, **LOSSLESS[suffix]), greys(np.asarray(grey) / 255))
    clear = palette.copy()
    clear.info["transparency"] = 3
    yield Variant("palette_transparent.png", encoded(clear, format="PNG"), np.asarray(palette.convert("RGB")) / 255)
    yield Variant("gif.png", encoded(palette, format="GIF"), np.asarray(palette.convert("RGB")) / 255)


def deep() -> Iterator[Variant]:
    """More than 8 bits."""
    steps = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    dark = (steps // 16).astype(np.uint16)  # a camera of 12 bits
    for name, values in (("full", steps), ("dark", dark)):
        image = Image.fromarray(values)
        scaled = greys(values / 65535)
        yield Variant(f"16_bit_{name}.png", encoded(image, format="PNG"), scaled)
        yield Variant(f"16_bit_{name}.tif", encoded(image, format="TIFF"), scaled)
        yield Variant(f"16_bit_{name}_big_endian.tif", tiff(values, byteorder=">"), scaled)
        yield Variant(f"16_bit_{name}_deflate.tiff", tiff(values, compression="zlib"), scaled)
        yield Variant(f"16_bit_{name}.pgm", pgm(values), scaled)
        yield Variant(f"16_bit_{name}_jpeg2000.png", encoded(image, format="JPEG2000", irreversible=False), scaled)
    colour = np.stack([steps, steps[::-1], steps[:, ::-1]], axis=-1)
    yield Variant("16_bit_rgb.tif", tiff(colour, photometric="rgb"), colour / 65535, tolerance=1 / 255)
    yield Variant("16_bit_rgb.png", png(colour), colour / 65535, tolerance=1 / 255)


def lossy() -> Iterator[Variant]:
    """JPEG and its kin."""
    image = Image.fromarray(scene(width=64, height=48))
    expected, near = np.asarray(image) / 255, 0.06
    for quality in (50, 75, 95):
        for options in ({}, {"progressive": True}, {"subsampling": 0}):
            name = f"jpeg_{quality}{'_'.join(['', *options])}.jpg"
            yield Variant(name, encoded(image, format="JPEG", quality=quality, **options), expected, near)
        yield Variant(f"webp_{quality}.webp", encoded(image, format="WEBP", quality=quality), expected, near)
    yield Variant("jpeg_named.png", encoded(image, format="JPEG", quality=95), expected, near)
    yield Variant("jpeg2000.jpg", encoded(image, format="JPEG2000"), expected, near)
    grey = greys(np.asarray(image.convert("L")) / 255)
    yield Variant("jpeg_grey.jpeg", encoded(image.convert("L"), format="JPEG", quality=95), grey, near)
    cmyk = image.convert("CMYK")
    yield Variant("cmyk.jpg", encoded(cmyk, format="JPEG", quality=95), expected, near)
    yield Variant("cmyk.tif", encoded(cmyk, format="TIFF"), expected, near)
    yield Variant("ycbcr.tif", encoded(image.convert("YCbCr"), format="TIFF", compression="jpeg"), expected, near)


def orientations() -> Iterator[Variant]:
    """Files that ask to be turned: TIFF's own tag is followed, EXIF in other formats is not."""
    image, shown = Image.fromarray(scene()), colours(scene())
    turned = [
        shown,
        shown[:, ::-1],
        shown[::-1, ::-1],
        shown[::-1],
        shown.swapaxes(0, 1),
        np.rot90(shown, -1),
        shown[::-1, ::-1].swapaxes(0, 1),
        np.rot90(shown),
    ]
    for orientation, as_asked in enumerate(turned, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in (".png", ".webp", ".tif"):
            content = encoded(image, **LOSSLESS[suffix], exif=exif)
            yield Variant(f"turned_{orientation}{suffix}", content, as_asked if suffix == ".tif" else shown)
        content = encoded(image, format="JPEG", quality=95, subsampling=0, exif=exif)
        yield Variant(f"turned_{orientation}.jpg", content, shown, tolerance=0.06)


def frames() -> Iterator[Variant]:
    """Several frames or pages, of which the first counts."""
    first, *more = (Image.fromarray(scene(seed)) for seed in range(3))
    for name, options in (("gif.png", {"format": "GIF"}), ("apng.png", {"format": "PNG"})):
        still, later = (first.quantize(32), [frame.quantize(32) for frame in more])
        expected = np.asarray(still.convert("RGB")) / 255
        if name == "apng.png":
            still, later, expected = first, more, colours(scene())
        yield Variant(f"animated_{name}", encoded(still, save_all=True, append_images=later, **options), expected)
    pages = encoded(first, save_all=True, append_images=more, format="TIFF")
    yield Variant("pages.tif", pages, colours(scene()))
    moving = encoded(first, save_all=True, append_images=more, format="WEBP", lossless=True)
    yield Variant("animated.webp", moving, colours(scene()))


def shapes() -> Iterator[Variant]:
    """Odd sizes."""
    for width, height in ((1, 1), (1, 2), (3, 3), (3, 40), (4, 3), (1, 300), (300, 1), (2, 12_000), (12_000, 2)):
        pixels = scene(width=width, height=height)
        for suffix in (".png", ".bmp"):
            content = encoded(Image.fromarray(pixels), **LOSSLESS[suffix])
            yield Variant(f"{width}_x_{height}{suffix}", content, colours(pixels))
    for value in (0, 1, 128, 255):
        flat = np.full((HEIGHT, WIDTH, 3), value, dtype=np.uint8)
        yield Variant(f"flat_{value}.png", encoded(Image.fromarray(flat), format="PNG"), colours(flat))


# ------------------------------------------------------------------ files that cannot


def wholes() -> dict[str, bytes]:
    """A sound file of each format."""
    image = Image.fromarray(scene(width=64, height=48))
    files = {suffix: encoded(image, **options) for suffix, options in LOSSLESS.items()}
    files[".jpg"] = encoded(image, format="JPEG", quality=90)
    files[".jpeg"] = encoded(image, format="JPEG", quality=90, progressive=True)
    return files


def truncated() -> Iterator[Variant]:
    """Copies that broke off."""
    for suffix, whole in wholes().items():
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            content = whole[: int(share * len(whole))]
            yield Variant(f"cut_{share:.0%}{suffix}", content, REFUSED)
        for kept in (1, 4, 16):
            yield Variant(f"cut_{kept}_bytes{suffix}", whole[:kept], REFUSED)
        yield Variant(f"cut_last_bytes{suffix}", whole[:-2], EITHER)


def flipped(seed: int = 1) -> Iterator[Variant]:
    """Bytes that a disk got wrong."""
    random = np.random.default_rng(seed)
    for suffix, whole in wholes().items():
        for number in range(6):
            content = bytearray(whole)
            limit = len(content) if number % 2 else 64  # every other time in the header
            for place in random.integers(0, limit, size=int(random.integers(1, 9))):
                content[place] = int(random.integers(0, 256))
            yield Variant(f"flipped_{number}{suffix}", bytes(content), EITHER)


def no_images(seed: int = 2) -> Iterator[Variant]:
    """Other files under an image's name."""
    random = np.random.default_rng(seed)
    page = b"<!DOCTYPE html><html><body>404</body></html>"
    texts = {"text": b"no image", "html": page, "json": b"{}", "csv": b"1,2,3\n", "pdf": b"%PDF-1.7\n%%EOF"}
    for suffix in (".png", ".jpg", ".tif", ".bmp"):
        for name, content in {**texts, "empty": b"", "zeros": bytes(4096)}.items():
            yield Variant(f"{name}{suffix}", content, REFUSED)
        yield Variant(f"noise{suffix}", random.bytes(2048), REFUSED)


def unranged() -> Iterator[Variant]:
    """Values without a known white."""
    values = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    broken = values.copy()
    broken[3, 4], broken[5, 6] = np.nan, np.inf
    yield Variant("float.tif", tiff(values), REFUSED)
    yield Variant("float_nan.tif", tiff(broken), REFUSED)
    yield Variant("double.tif", tiff(values.astype(np.float64)), REFUSED)
    yield Variant("half.tif", tiff(values.astype(np.float16)), REFUSED)
    yield Variant("float_rgb.tif", tiff(greys(values), photometric="rgb"), REFUSED)
    yield Variant("int32.tif", tiff((values * 1e6).astype(np.int32)), REFUSED)
    yield Variant("uint32.tif", tiff((values * 1e6).astype(np.uint32)), REFUSED)
    yield Variant("int16.tif", tiff((values * 1e4).astype(np.int16)), REFUSED)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, *, width: int | None = None, height: int | None = None) -> bytes:
    """A PNG of 16-bit RGB values; width and height may be lies."""
    shape = (width or values.shape[1], height or values.shape[0])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *shape, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def liars() -> Iterator[Variant]:
    """Headers that promise what the file does not hold."""
    values = np.zeros((4, 4, 3), dtype=np.uint16)
    yield Variant("bomb.png", png(values, width=20_000, height=20_000), REFUSED)
    yield Variant("no_height.png", png(values, height=2**31), REFUSED)
    yield Variant("too_few_rows.png", png(values, height=400), EITHER)  # Pillow fills the rest with black
    whole = png(values)
    yield Variant("no_data.png", whole[: whole.index(b"IDAT") - 4] + png_chunk(b"IEND", b""), REFUSED)
    yield Variant("broken_checksum.png", whole.replace(b"IDAT", b"IDAt"), REFUSED)


def corpus() -> list[Variant]:
    """All the files; two calls give the same bytes."""
    readable = (modes(), deep(), lossy(), orientations(), frames(), shapes())
    damaged = (truncated(), flipped(), no_images(), unranged(), liars())
    return [variant for group in (*readable, *damaged) for variant in group]


# ------------------------------------------------------------------ masks


def masks() -> list[Variant]:
    """Masks of every kind; ``expected`` is bool, ``(H, W)``."""
    square = np.zeros((HEIGHT, WIDTH), dtype=bool)
    square[4:9, 6:15] = True
    ones = square.astype(np.uint8)
    soft = 0.5 * ones + 0.3 * np.roll(ones, 1, axis=0) + 0.2 * np.roll(ones, 1, axis=1)  # in [0, 1]
    spread = soft > 0
    blue = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    blue[..., 2] = ones  # of which a conversion to grey leaves nothing
    labels = Image.fromarray(ones, "P")
    labels.putpalette([0, 0, 0, 128, 0, 0])
    opaque, background_clear, marks_clear = (Image.fromarray(255 * ones) for _ in range(3))
    opaque.putalpha(255)
    background_clear.putalpha(Image.fromarray(255 * ones))
    marks_clear.putalpha(Image.fromarray(255 - 255 * ones))
    broken = ones.astype(np.float32)
    broken[0, 0] = np.nan
    whole = encoded(Image.fromarray(scene()[..., 0]), format="PNG")
    return [
        Variant("0_255.png", encoded(Image.fromarray(255 * ones), format="PNG"), square),
        Variant("0_1.png", encoded(Image.fromarray(ones), format="PNG"), square),
        Variant("soft.png", encoded(Image.fromarray((255 * soft).astype(np.uint8)), format="PNG"), spread),
        Variant("one_bit.png", encoded(Image.fromarray(square), format="PNG"), square),
        Variant("one_bit.tif", encoded(Image.fromarray(square), format="TIFF", compression="group4"), square),
        Variant("rgb.png", encoded(Image.fromarray(255 * greys(ones)), format="PNG"), square),
        Variant("rgb_blue.png", encoded(Image.fromarray(blue), format="PNG"), square),
        Variant("palette.png", encoded(labels, format="PNG"), square),
        Variant("palette.bmp", encoded(labels, format="BMP"), square),
        Variant("16_bit_0_1.png", encoded(Image.fromarray(ones.astype(np.uint16)), format="PNG"), square),
        Variant("16_bit.tif", tiff(ones.astype(np.uint16) * 65535), square),
        Variant("int32.tif", tiff(ones.astype(np.int32)), square),
        Variant("float.tif", tiff(ones.astype(np.float32)), square),
        Variant("float_soft.tif", tiff(soft.astype(np.float32)), spread),
        Variant("float_nan.tif", tiff(broken), REFUSED),
        Variant("alpha_opaque.png", encoded(opaque, format="PNG"), square),
        Variant("alpha_background_clear.png", encoded(background_clear, format="PNG"), square),
        Variant("alpha_marks_clear.png", encoded(marks_clear, format="PNG"), REFUSED),
        Variant("nothing.png", encoded(Image.fromarray(0 * ones), format="PNG"), np.zeros_like(square)),
        Variant("everything.png", encoded(Image.fromarray(0 * ones + 255), format="PNG"), np.ones_like(square)),
        Variant("cut.png", whole[: len(whole) // 2], REFUSED),
        Variant("empty.png", b"", REFUSED),
        Variant("text.png", b"no mask", REFUSED),
        Variant("bomb.png", png(np.zeros((4, 4, 3)), width=20_000, height=20_000), REFUSED),
    ]
