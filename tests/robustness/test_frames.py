# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Frames as cameras deliver them, alone and in a stream: scored as the file is, or refused in a sentence."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_grad.data import MultiCategory, PredictImages
from anomalib_grad.data.pixels import resized
from anomalib_grad.data.read_or_refuse import FileFormat, read_image
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.deploy.frames import FrameFormat, as_batch

pytestmark = pytest.mark.slow

LARGE, SMALL = (900, 1100), (64, 64)
GREY_LEVEL = 0.5 / 255 + 1e-6
"""What reducing the width in whole grey levels makes of a colour."""
RAW = 0.01
"""What rounding to a grey level makes of a raw score, relative; a normalised one changes less."""


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with structure at all scales."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    return (0.7 * np.asarray(coarse) + 0.3 * generator.integers(0, 255, (height, width, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return picture(*LARGE)


@pytest.fixture(scope="module")
def twelve_bits(frame: np.ndarray) -> np.ndarray:
    """A grey frame of 12 bits."""
    return frame[..., 1].astype(np.uint16) * 16 + 5


def another(deployed: Any, **options: Any) -> CategoryOpenVINOInferencer:
    return CategoryOpenVINOInferencer(deployed.file, device="CPU", config=deployed.inferencer.config, **options)


@pytest.mark.parametrize("shape", [LARGE, (1, 6000), (6000, 1), (300, 64), (64, 64), (20, 31), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_frames_are_made_small_as_pillow_does_with_less_rounding(shape: tuple[int, int], channels: int) -> None:
    pixels = picture(*shape)[..., :channels]
    size = (64, 48)
    expected = np.asarray(Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).resize((48, 64), 2))
    small = resized(pixels, size)
    precise = resized(pixels.astype(np.float32), size)
    assert np.abs(precise - expected.reshape(*size, channels)).max() <= 1
    assert np.abs(precise - small).max() <= (1 if channels == 1 else 0.5 + 1e-4)


@given(
    shape=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    mode=st.sampled_from(["L", "RGB", "P"]),
)
def test_an_image_and_its_pixels_are_resized_alike(shape: tuple[int, int], size: tuple[int, int], mode: str) -> None:
    image = Image.fromarray(picture(*shape)).convert(mode)
    pixels = np.asarray(image.convert("RGB") if mode == "P" else image)
    small = as_batch(image, FrameFormat(size=size))
    assert small.min() >= 0
    assert small.max() <= 1, "what was read may be handed on"
    np.testing.assert_allclose(small, as_batch(pixels, FrameFormat(size=size)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [31, 97, 333, 700])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_stays_white(side: int, kind: type) -> None:
    white = np.full((side, side + 5, 3), np.iinfo(kind).max, kind)
    for size in ((64, 64), (48, 77), (320, 320)):
        small = as_batch(white, FrameFormat(size=size))
        assert small.max() <= 1, "what was read may be handed on"
        np.testing.assert_allclose(small, 1, atol=1e-6)
        np.testing.assert_array_equal(as_batch(small), small)


@pytest.mark.parametrize(
    ("shape", "pixel", "score"), [(LARGE, GREY_LEVEL, RAW), ((20, 31), 1e-5, 1e-4), ((20, 200), 1e-5, 1e-4)]
)
def test_every_way_in_gives_the_same_pixels_and_score(
    deployed: Any, frame: np.ndarray, tmp_path: Path, shape: tuple[int, int], pixel: float, score: float
) -> None:
    """Those of images that are enlarged exactly, as no grey level between two pixels is lost."""
    file = tmp_path / "frame.png"
    frame = frame if shape == LARGE else picture(*shape)
    Image.fromarray(frame).save(file)
    locked = frame.copy()
    locked.setflags(write=False)
    upside_down = np.ascontiguousarray(frame[::-1])[::-1]
    tensor = torch.from_numpy(frame).permute(2, 0, 1)
    ways = [file, str(file), Image.fromarray(frame), frame, locked, upside_down, frame.transpose(2, 0, 1), tensor]
    ways += [tensor / 255, frame / 255.0, frame.astype(np.float32), frame.astype(np.int64), frame[None]]
    in_process = deployed.model(read_image(file)[None])
    for way in ways:
        prediction = deployed.inferencer.predict(way)
        assert prediction.image.shape == (1, *SMALL, 3)
        assert np.abs(prediction.image - deployed.inferencer.predict(file).image).max() <= pixel
        assert abs(prediction.pred_score.item() - in_process.pred_score.item()) < score * in_process.pred_score.item()


def test_an_export_that_does_not_name_its_size_is_given_whole_frames(deployed: Any, frame: np.ndarray) -> None:
    older = another(deployed)
    older._frames = older._frames._replace(size=None)
    predicted = older.predict(frame)
    assert predicted.image.shape[1:3] == LARGE
    np.testing.assert_allclose(predicted.pred_score, deployed.inferencer.predict(frame).pred_score, rtol=RAW)


def test_prediction_reads_files_at_the_size_that_its_transform_resizes_to(
    deployed: Any, frame: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "frame.png"
    Image.fromarray(frame).save(file)
    (item,) = PredictImages(file, transform=Resize(SMALL, antialias=True))
    assert torch.equal(item.image.permute(1, 2, 0), torch.from_numpy(deployed.inferencer.predict(file).image[0]))


def test_a_grey_frame_is_what_its_file_is(deployed: Any, frame: np.ndarray, tmp_path: Path) -> None:
    grey = frame[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    from_file = deployed.inferencer.predict(tmp_path / "grey.png").pred_score
    np.testing.assert_allclose(deployed.inferencer.predict(tmp_path / "deep.png").pred_score, from_file, rtol=RAW)
    pixels = deployed.inferencer.predict(tmp_path / "grey.png").image
    for way in (grey, grey[..., None], grey[None], torch.from_numpy(grey)[None], grey.astype(np.uint16) * 257):
        assert np.abs(deployed.inferencer.predict(way).image - pixels).max() <= 2 * GREY_LEVEL
        np.testing.assert_allclose(deployed.inferencer.predict(way).pred_score, from_file, rtol=RAW)


def test_bits_are_told_once_for_arrays_and_files(deployed: Any, twelve_bits: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(twelve_bits).save(tmp_path / "twelve.png")
    told = another(deployed, bits=12)
    expected = told.predict(twelve_bits.astype(np.float32) / 4095)
    for way in (twelve_bits, twelve_bits[..., None].repeat(3, -1), tmp_path / "twelve.png"):
        np.testing.assert_allclose(told.predict(way).image, expected.image, atol=1e-5)
    with pytest.raises(ValueError, match=r"it has a value of 4069, but bits=10 allows at most 1023; set bits higher"):
        as_batch(twelve_bits, FrameFormat(files=FileFormat(bits=10)))


def test_blue_may_come_first(deployed: Any, frame: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(frame).save(tmp_path / "frame.png")
    told = another(deployed, channel_order="BGR")
    expected = deployed.inferencer.predict(frame)
    np.testing.assert_array_equal(told.predict(frame[..., ::-1]).image, expected.image)
    np.testing.assert_allclose(told.predict(tmp_path / "frame.png").image, expected.image, atol=GREY_LEVEL)


@pytest.mark.parametrize("option", [{"bits": 8}, {"bits": 17}, {"channel_order": "GBR"}, {"max_pixels": 0}])
def test_impossible_formats_are_refused(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(option))} must be"):
        CategoryOpenVINOInferencer(tmp_path / "model.xml", **option)


def test_a_device_that_is_not_there_is_answered_by_those_that_are(deployed: Any) -> None:
    with pytest.raises(ValueError, match=r"OpenVINO has no device 'CUDA' on this machine; choose one of AUTO, CPU"):
        CategoryOpenVINOInferencer(deployed.file, device="CUDA")


def test_files_beyond_pillows_guard_are_read_when_they_are_allowed(
    deployed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the guard refuses twice as many
    Image.fromarray(picture(3, 3000)).save(tmp_path / "line.png")
    with pytest.raises(
        ValueError, match=r"exceeds limit.*to allow more, set max_pixels of .*\); remove or replace it$"
    ):
        deployed.inferencer.predict(tmp_path / "line.png")
    assert another(deployed, max_pixels=9000).predict(tmp_path / "line.png").pred_score > 0
    with pytest.raises(ValueError, match=r"3000 x 3 pixels exceed max_pixels=8999"):
        another(deployed, max_pixels=8999).predict(tmp_path / "line.png")
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_training_and_prediction_are_told_of_files_what_the_inferencer_is(
    deployed: Any, twelve_bits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("train/good/0.png", "test/good/0.png", "test/spot/0.png", "ground_truth/spot/0.png"):
        (tmp_path / "nut" / place).parent.mkdir(parents=True)
        Image.fromarray(twelve_bits).save(tmp_path / "nut" / place)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    file = tmp_path / "nut/train/good/0.png"
    expected = another(deployed, bits=12, max_pixels=twelve_bits.size).predict(file).image[0]
    told = {"bits": 12, "max_pixels": twelve_bits.size, "skip_unreadable": True}
    data = MultiCategory(tmp_path, num_workers=0, test_augmentations=Resize(SMALL), **told)
    data.setup()
    assert len(data.train_data) == 1
    assert data.test_data[0].gt_mask.any() or data.test_data[1].gt_mask.any()
    for image in (data.test_data[0].image, PredictImages(file, transform=Resize(SMALL), **told)[0].image):
        np.testing.assert_allclose(image.permute(1, 2, 0), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"0\.png': it has a value of 4069, but bits=10 allows at most 1023"):
        PredictImages(file, bits=10, max_pixels=twelve_bits.size)[0]
    for wrong in ({"bits": 17}, {"max_pixels": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
            MultiCategory(tmp_path, **wrong).setup()
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
            PredictImages(file, **wrong)


# ------------------------------------------------------------------ streams


def test_a_stream_gives_what_the_loop_gives_in_order_and_a_bad_frame_an_error(
    deployed: Any, frame: np.ndarray, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    Image.fromarray(frame).save(good)
    bad.write_bytes(good.read_bytes()[:20_000])
    nan = np.full((30, 30, 3), np.nan)
    undecoded = Image.open(bad)
    frames = [
        frame,
        good,
        bad,
        frame[::2],
        nan,
        frame[:1],
        np.zeros((0, 5)),
        frame[:, :, :2],
        undecoded,
        torch.zeros(3, 30, 30, dtype=torch.complex64),
        *[frame[n:] for n in range(20)],
    ]
    results = list(deployed.inferencer.stream(frames, in_flight=3))
    assert [id(result.frame) for result in results] == [id(frame) for frame in frames]
    assert [index for index, result in enumerate(results) if result.error] == [2, 4, 6, 7, 8, 9]
    assert str(results[2].error) == str(results[8].error)
    assert str(bad) in str(results[2].error)
    assert all(result.prediction is None for result in results if result.error)
    assert all(0 < result.seconds < 60 for result in results)
    for result in results:
        if not result.error:
            alone = deployed.inferencer.predict(result.frame)
            np.testing.assert_allclose(result.prediction.anomaly_map, alone.anomaly_map, rtol=1e-4, atol=1e-6)
            assert result.prediction.explanation == alone.explanation


def test_a_stream_may_be_told_the_category_and_refuses_what_is_impossible_at_once(
    deployed: Any, frame: np.ndarray
) -> None:
    (result,) = deployed.inferencer.stream([frame], category="pin")
    assert result.prediction.explanation == ["pin"]
    assert result.prediction.pred_score == pytest.approx(deployed.inferencer.predict(frame, category="pin").pred_score)
    with pytest.raises(ValueError, match="does not know the category 'cup'"):
        deployed.inferencer.stream([], category="cup")
    for wrong in (0, 2.5, "4"):
        with pytest.raises(ValueError, match="in_flight must be a whole number"):
            deployed.inferencer.stream([], in_flight=wrong)
    for single in ("image.png", b"image.png", Path("image.png"), Image.fromarray(frame)):
        with pytest.raises(
            TypeError, match=rf"frames must be several images, .* got a {type(single).__name__}; give one as"
        ):
            deployed.inferencer.stream(single)
    assert list(deployed.inferencer.stream([])) == []


def test_a_stream_takes_no_more_than_is_in_flight_and_nothing_after_its_end(deployed: Any, frame: np.ndarray) -> None:
    taken = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield frame

    stream = deployed.inferencer.stream(camera(), in_flight=3)
    for read in range(1, 6):
        next(stream)
        assert taken <= read + 3
    stream.close()
    after = taken
    time.sleep(0.2)
    assert taken == after
    assert next(stream, None) is None


def test_results_do_not_wait_for_the_next_frame_of_a_slow_source(deployed: Any, frame: np.ndarray) -> None:
    seen: list[int] = []

    def slow() -> Iterator[np.ndarray]:
        for count in range(3):
            assert len(seen) == count or wait_for(seen, count)
            yield frame

    def wait_for(results: list[int], count: int) -> bool:
        deadline = time.monotonic() + 60
        while len(results) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(results) == count

    for number, result in enumerate(deployed.inferencer.stream(slow(), in_flight=4)):
        assert result.error is None
        seen.append(number)
    assert seen == [0, 1, 2]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [OSError, SystemExit, KeyboardInterrupt])
def test_what_the_source_raises_comes_after_the_results_of_the_frames_before(
    deployed: Any, frame: np.ndarray, kind: type[BaseException]
) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from [frame, frame]
        raise kind("the cable was pulled")

    stream = deployed.inferencer.stream(broken())
    assert [next(stream).error, next(stream).error] == [None, None]
    with pytest.raises(kind, match="cable"):
        next(stream)
