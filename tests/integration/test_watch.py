# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""examples/watch.py takes files when they are whole, names those that are not, and ends with a summary."""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_grad.lightning_model import Grad
from helpers import tiny

pytestmark = pytest.mark.slow

WATCH = Path(__file__).parents[2] / "examples/watch.py"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that calls everything anomalous."""
    model = Grad(**tiny(backbone="grad_tiny", pre_trained=True, mse_threshold=0.1)).eval()
    model.post_processor._image_threshold.fill_(0.0)
    return model.to_onnx(tmp_path_factory.mktemp("watch"))


def test_a_folder_is_judged_and_alarms_are_saved(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    incoming, alarms = tmp_path / "incoming", tmp_path / "alarms"
    incoming.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(incoming / "first.png")
    content = (incoming / "first.png").read_bytes()
    (incoming / "cut.png").write_bytes(content[:9000])
    (incoming / "notes.txt").write_text("no picture")
    arguments = [str(exported), str(incoming), "--alarms", str(alarms), "--settle", "0.2", "--once"]
    watch(monkeypatch, *arguments)
    printed = capsys.readouterr().out
    assert "ALARM" in printed
    assert "cut.png" in printed
    assert "truncated" in printed
    assert "2 frames: 0 good, 1 alarms, 1 unreadable" in printed
    (saved,) = alarms.iterdir()
    with Image.open(saved) as picture:
        assert picture.size == (128, 64)


def watch(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["watch.py", *map(str, arguments)])
    runpy.run_path(str(WATCH), run_name="__main__")


def test_ctrl_c_ends_it_with_a_summary(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    incoming, alarms = tmp_path / "incoming", tmp_path / "alarms"
    incoming.mkdir()
    Image.new("RGB", (80, 60), "red").save(incoming / "first.png")

    def press() -> None:
        deadline = time.monotonic() + 120
        while not list(alarms.glob("*.png")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)  # until it waits for the next picture
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    watch(monkeypatch, exported, incoming, "--alarms", alarms, "--settle", "0.1")
    assert "1 frames: 0 good, 1 alarms, 0 unreadable" in capsys.readouterr().out
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frames")]


def test_ctrl_c_while_it_starts_ends_it_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    command = [sys.executable, str(WATCH), "model.xml", "."]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert done.stderr == "Stopped before the first frame.\n"


def test_a_video_is_judged_as_a_camera_is(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video = cv2.VideoWriter(str(tmp_path / "line.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 60))
    for _ in range(3):
        video.write(np.full((60, 80, 3), (10, 20, 230), dtype=np.uint8))  # red, as OpenCV has it
    video.release()
    watch(monkeypatch, exported, tmp_path / "line.avi", "--alarms", tmp_path / "alarms")
    assert "3 frames: 0 good, 3 alarms, 0 unreadable" in capsys.readouterr().out
    with Image.open(min((tmp_path / "alarms").iterdir())) as picture:
        red, _, blue = picture.getpixel((10, 10))
    assert red > 200
    assert blue < 50


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["99"], "error: 99 is neither a folder nor a camera or video that OpenCV opens; give another."),
        (["./nowhere"], "error: ./nowhere is neither a folder nor a camera or video"),
        (
            [".", "--category", "nutt"],
            "error: The model does not know the category 'nutt'; it knows none, so give none.",
        ),
        ([".", "--in-flight", "0"], "error: in_flight must be a whole number of at least 1, got 0."),
    ],
)
def test_what_cannot_be_watched_is_refused_in_a_sentence(
    exported: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        watch(monkeypatch, exported, *arguments)
    assert str(ended.value.code).startswith(said)  # which Python prints, and exits with 1


def test_a_file_that_grows_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    whole_files = runpy.run_path(str(WATCH))["whole_files"]
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "whole.png").unlink()

    def grow() -> None:
        with (tmp_path / "grown.png").open("wb") as file:
            for start in range(0, len(content), len(content) // 8):
                file.write(content[start : start + len(content) // 8])
                file.flush()
                time.sleep(0.05)

    (tmp_path / "grown.png").touch()
    writer = threading.Thread(target=grow)
    writer.start()
    files = whole_files(tmp_path, settle=1.0, once=True)
    assert next(files).read_bytes() == content
    writer.join()
    assert list(files) == []


def test_a_file_that_changes_after_it_was_judged_is_judged_again(tmp_path: Path) -> None:
    whole_files = runpy.run_path(str(WATCH))["whole_files"]
    file = tmp_path / "latest.png"
    file.write_bytes(b"half")
    files = whole_files(tmp_path, settle=0.1, once=True)
    assert next(files) == file
    file.write_bytes(b"half, and the rest")
    assert list(files) == [file]
