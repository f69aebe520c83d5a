# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Inferencers may come and go in any order without leaving a process that its next signal kills."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

pytestmark = pytest.mark.slow

REPLACE = """
import signal, sys, time
from anomalib_grad.deploy import CategoryOpenVINOInferencer

handled = []
signal.signal(signal.SIGALRM, lambda *_: handled.append(1))
first, second = (CategoryOpenVINOInferencer(sys.argv[1], device="CPU") for _ in range(2))
del first  # a line that replaces its model drops the older one first
del second
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.5)
print("handled", len(handled))
"""


def test_a_signal_is_handled_after_a_model_was_replaced(tmp_path: Path) -> None:
    image = ops.parameter([-1, 3, -1, -1], dtype=np.float32, name="input")
    ov.save_model(ov.Model([ops.relu(image)], [image]), tmp_path / "model.xml")
    done = subprocess.run(
        [sys.executable, "-c", REPLACE, str(tmp_path / "model.xml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "handled 1"), done.stderr[-2000:]
