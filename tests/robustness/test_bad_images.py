# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Each file of the corpus is read as its variant says, or refused by its name, by every reader of this package."""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
import torch
from anomalib.data.utils import read_image as anomalib_read_image
from PIL import Image

from anomalib_grad.data.pixels import read_wrongly_by_anomalib, rgb_pixels
from anomalib_grad.data.read_or_refuse import UnreadableImageError, check_image, read_image, read_mask
from anomalib_grad.deploy.frames import as_batch
from anomalib_grad.report.pictures import picture_of
from bad_images import EITHER, REFUSED, Variant, corpus, masks

CORPUS = corpus()
READABLE = [variant.name for variant in CORPUS if isinstance(variant.expected, np.ndarray)]
REFUSALS = [variant.name for variant in CORPUS if variant.expected is REFUSED]
SURVIVORS = [variant.name for variant in CORPUS if variant.expected is EITHER]
Files = dict[str, tuple[Path, Variant]]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of what it then refuses


def assert_refusal(error: Exception, path: Path) -> None:
    """One sentence, with the file, what is wrong, and what to do."""
    message = str(error)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith("; remove or replace it")


def test_the_corpus_is_large_and_always_the_same() -> None:
    assert len({variant.name for variant in CORPUS}) == len(CORPUS) >= 200
    assert [variant.content for variant in CORPUS] == [variant.content for variant in corpus()]


@pytest.mark.parametrize("name", READABLE)
def test_what_can_be_read_has_the_stated_pixels(name: str, files: Files) -> None:
    path, variant = files[name]
    pixels = read_image(path).permute(1, 2, 0).numpy()
    assert pixels.shape == variant.expected.shape
    assert pixels.dtype == np.float32
    deviation = np.abs(pixels - variant.expected)
    lossless = variant.tolerance <= 1 / 255
    assert (deviation.max() if lossless else deviation.mean()) <= variant.tolerance
    check_image(path)


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_is_refused_by_name(name: str, files: Files) -> None:
    path, _ = files[name]
    for read in (read_image, check_image, as_batch):
        with pytest.raises(UnreadableImageError) as refusal:
            read(path)
        assert_refusal(refusal.value, path)


@pytest.mark.parametrize("name", SURVIVORS)
def test_slight_damage_is_survived_or_refused_by_name(name: str, files: Files) -> None:
    path, _ = files[name]
    try:
        pixels = read_image(path)
    except UnreadableImageError as refusal:
        assert_refusal(refusal, path)
    else:
        assert pixels.shape[0] == 3
        assert 0 <= pixels.min() <= pixels.max() <= 1


def test_readers_agree_on_every_file(files: Files) -> None:
    for name in READABLE:
        path, _ = files[name]
        image = read_image(path)
        np.testing.assert_allclose(as_batch(path)[0], image.permute(1, 2, 0), atol=1e-7, err_msg=name)
        with Image.open(path) as opened:
            np.testing.assert_array_equal(as_batch(opened)[0], as_batch(path)[0], err_msg=name)


def test_anomalib_reads_the_same_where_it_is_not_refused(files: Files) -> None:
    for name in READABLE:
        path, _ = files[name]
        with Image.open(path) as opened:
            wrongly = read_wrongly_by_anomalib(opened)
        assert torch.equal(anomalib_read_image(path, as_tensor=True), read_image(path)) != wrongly, name


def test_pictures_for_people_show_what_is_read(files: Files) -> None:
    for name in READABLE:
        path, _ = files[name]
        expected = read_image(path)
        with Image.open(path) as opened:
            shown = np.asarray(picture_of(opened, (opened.height, opened.width))) / 255
        np.testing.assert_allclose(shown, expected.permute(1, 2, 0), atol=1 / 255, err_msg=name)


def test_a_directory_named_like_an_image_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "folder.png"
    path.mkdir()
    with pytest.raises(UnreadableImageError, match=re.escape(f"'{path}': Is a directory; give an image in it")):
        read_image(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=re.escape("gone.png': No such file or directory; check")):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: mask.name)
def test_masks_mark_what_is_above_zero_or_are_refused_by_name(mask: Variant, tmp_path: Path) -> None:
    path = tmp_path / mask.name
    path.write_bytes(mask.content)
    if isinstance(mask.expected, str):
        with pytest.raises(UnreadableImageError, match=r"^could not read mask ") as refusal:
            read_mask(path)
        assert_refusal(refusal.value, path)
    else:
        assert torch.equal(read_mask(path).bool(), torch.from_numpy(mask.expected))


def test_no_file_is_left_open(files: Files) -> None:
    for name in (*READABLE, *REFUSALS):
        with suppress(UnreadableImageError):
            read_image(files[name][0])
    folder = str(files[READABLE[0]][0].parent)
    assert [file.path for file in psutil.Process().open_files() if file.path.startswith(folder)] == []


def test_tiff_files_that_pillow_mixes_up_are_read_right_or_refused(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    wide = values.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "white.tif", wide[..., 0], photometric="miniswhite")
    np.testing.assert_allclose(read_image(tmp_path / "white.tif")[0], 1 - values[..., 0] / 255, atol=1e-6)
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(wide, -1, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "signed.tif", values[..., 0].astype(np.int8))
    for name in ("planes.tif", "signed.tif"):
        for read in (read_image, check_image, as_batch, read_mask):
            with pytest.raises(UnreadableImageError) as refusal:
                read(tmp_path / name)
            assert_refusal(refusal.value, tmp_path / name)
    tifffile.imwrite(tmp_path / "eight.tif", np.moveaxis(values, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_allclose(read_image(tmp_path / "eight.tif").permute(1, 2, 0), values / 255, atol=1e-6)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not one of 0 x 5\.$"):
        as_batch(Image.new("RGB", (0, 5)))


PIXELS = np.full((8, 8, 3), 0.5, dtype=np.float32)


@pytest.mark.parametrize(
    "pixels",
    [
        *(PIXELS.astype(kind) for kind in ("complex64", "O", "U", "M8[s]")),
        np.ma.masked_less(PIXELS, 1),
        torch.from_numpy(PIXELS).to_sparse(),
        torch.from_numpy(PIXELS).to("meta"),
        torch.quantize_per_tensor(torch.from_numpy(PIXELS), 0.1, 0, torch.quint8),
    ],
    ids=["complex", "objects", "text", "dates", "masked", "sparse", "meta", "quantised"],
)
def test_values_that_are_no_pixels_are_refused(pixels: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^Pass (pixels as real numbers|a dense tensor)"):
        as_batch(pixels)


def test_floating_point_images_are_scaled_each_by_its_own_values() -> None:
    image = np.random.default_rng(0).random((5, 7, 3), dtype=np.float32)
    np.testing.assert_array_equal(as_batch(np.stack([image, image * 255]))[0], as_batch(image)[0])
    with pytest.raises(ValueError, match=r"not from .* to 1\.5; clamp them"):
        as_batch(np.stack([image * 255, image / image.max() * 1.5]))


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_arrays_are_scaled_by_their_type_not_by_their_values(value: int) -> None:
    flat = np.full((5, 7, 3), value, dtype=np.uint8)
    expected = np.full((1, 5, 7, 3), value / 255, dtype=np.float32)
    deep = flat.astype(np.uint16) * 257
    for given in (flat, flat.astype(np.int64), torch.from_numpy(flat), deep, deep.astype(">u2")):
        np.testing.assert_allclose(as_batch(given), expected, atol=1e-7)
    np.testing.assert_allclose(as_batch(Image.fromarray(flat)), expected, atol=1e-7)
    np.testing.assert_allclose(as_batch(torch.from_numpy(expected).bfloat16()), expected, atol=4e-3)


@pytest.mark.parametrize("shape", [(3, 8, 9), (3, 8, 3), (3, 3, 3), (2, 3, 8, 9), (2, 3, 8, 3)])
def test_tensors_have_their_channels_first_however_narrow(shape: tuple[int, ...]) -> None:
    pixels = torch.rand(shape)
    np.testing.assert_array_equal(as_batch(pixels), pixels.reshape(-1, *shape[-3:]).permute(0, 2, 3, 1))


@pytest.mark.parametrize("shape", [(8, 9, 3), (8, 3, 3), (3, 3, 3), (2, 8, 9, 3), (2, 3, 8, 3)])
def test_arrays_have_them_last_however_low(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).random(shape, dtype=np.float32)
    np.testing.assert_array_equal(as_batch(pixels), pixels.reshape(-1, *shape[-3:]))


def test_arrays_may_have_them_first() -> None:
    pixels = np.random.default_rng(0).random((2, 3, 8, 9), dtype=np.float32)
    np.testing.assert_array_equal(as_batch(pixels), pixels.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("shape", [(9,), (8, 9, 4), (5, 8, 9), (1, 1, 3, 8, 9), (0, 3, 8, 9), (3, 0, 5), (0, 5)])
def test_other_shapes_are_refused_in_a_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"not of shape {shape}")):
        as_batch(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.01, 256.0])
def test_values_out_of_range_are_refused_in_a_sentence(value: float) -> None:
    pixels = np.full((4, 4, 3), 0.5, dtype=np.float32)
    pixels[1, 2, 0] = value
    with pytest.raises(ValueError, match="clamp them"):
        as_batch(pixels)


def test_the_callers_pixels_are_left_as_they_were() -> None:
    pixels = np.full((4, 4, 3), 200, dtype=np.float32)
    as_batch(pixels)[:] = 0
    assert (pixels == 200).all()


def test_a_float_image_in_memory_is_refused_like_a_file() -> None:
    with pytest.raises(ValueError, match="floating-point values"):
        rgb_pixels(Image.fromarray(np.zeros((4, 4), dtype=np.float32)))
