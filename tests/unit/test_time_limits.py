# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A hung or crashed test ends the run soon and is named; in runs of their own, with the project's configuration."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
WATCH = "from time_limits import watch\ndef pytest_configure(config): watch(config)\n"
HANG = "import time\ndef test_hang(): time.sleep(60)\n"
CRASH = "import os\ndef test_crash(): os.abort()\n"


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start pytest on a file of tests; whatever is left of it when the test ends is killed."""
    runs: list[subprocess.Popen[str]] = []

    def start(source: str, *options: str) -> subprocess.Popen[str]:
        (tmp_path / "conftest.py").write_text(WATCH)
        (tmp_path / "test_it.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-c", str(PROJECT), "-n1", "-p", "no:cacheprovider", *options]
        runs.append(
            subprocess.Popen(
                [*command, str(tmp_path)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def test_a_test_beyond_its_limit_is_named_with_the_line_where_it_stood(start: Start) -> None:
    run = start(HANG, "--timeout=1")
    printed, _ = run.communicate(timeout=40)
    assert run.returncode == 1
    assert "crashed while running" in printed
    assert "test_it.py::test_hang" in printed
    assert 'test_it.py", line 2 in test_hang' in printed


def test_a_crashed_worker_ends_the_run_with_a_failure(start: Start) -> None:
    run = start(CRASH)
    printed, _ = run.communicate(timeout=40)
    assert run.returncode == 1
    assert "test_it.py::test_crash" in printed
    assert "worker restarting disabled" in printed


def test_a_terminated_run_names_the_tests_that_were_running(start: Start, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    run = start(f"import time\ndef test_hang(): open({str(begun)!r}, 'w').close(); time.sleep(60)\n")
    deadline = time.monotonic() + 40
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    run.terminate()
    printed, _ = run.communicate(timeout=40)
    assert run.returncode == 1
    assert "terminated while running: " in printed
    assert "test_it.py::test_hang (" in printed


def test_slow_tests_have_more_time_unless_they_set_a_limit(start: Start) -> None:
    source = """
import pytest
def limit(request):
    mark = request.node.get_closest_marker("timeout")
    return mark.args[0] if mark else None
@pytest.mark.slow
def test_slow(request): assert limit(request) == 1800
@pytest.mark.slow
@pytest.mark.timeout(7)
def test_own(request): assert limit(request) == 7
def test_quick(request): assert limit(request) is None
"""
    run = start(source, "-n0", "-q")
    printed, _ = run.communicate(timeout=40)
    assert run.returncode == 0, printed
    assert "3 passed" in printed
