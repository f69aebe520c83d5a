# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""examples/watch.py takes files when they are whole, names those that are not, and ends with a summary."""

import runpy
import sys
import threading
import time
from pathlib import Path

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
    monkeypatch.setattr(sys, "argv", ["watch.py", *arguments])
    runpy.run_path(str(WATCH), run_name="__main__")
    printed = capsys.readouterr().out
    assert "ALARM" in printed
    assert "cut.png" in printed
    assert "truncated" in printed
    assert "2 frames: 0 good, 1 alarms, 1 unreadable" in printed
    (saved,) = alarms.iterdir()
    with Image.open(saved) as picture:
        assert picture.size == (128, 64)


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
