# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a test or a run that takes too long says before it ends: which test it was, and where each thread stood."""

import faulthandler
import os
import signal
from time import monotonic
from types import FrameType
from typing import Any

import pytest

SLOW = 1800
"""Seconds for a test marked ``slow`` that sets no limit of its own; others have pyproject.toml's ``timeout``."""


class SlowTestLimit:
    """Gives tests that are marked as slow more time."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(SLOW))


class RunningTests:
    """Names the tests that were running when the whole run is terminated, as ``.ci/run`` does after a while."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        signal.signal(signal.SIGTERM, self._exit)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._started[nodeid] = monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._started.pop(nodeid, None)

    def _exit(self, number: int, frame: FrameType | None) -> None:
        running = [f"{nodeid} ({monotonic() - start:.0f} s)" for nodeid, start in self._started.items()]
        pytest.exit(f"terminated while running: {', '.join(running) or 'no test'}", returncode=1)


class WorkerStacks:
    """Lets a worker print the stacks of its threads when it is terminated or a test exceeds its limit, then die.

    pytest-timeout's own thread would print where nobody reads it, and waits for native code that holds Python's lock.
    """

    def __init__(self, config: pytest.Config) -> None:
        with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            self._stderr = os.fdopen(os.dup(2), "w")
        faulthandler.register(signal.SIGTERM, file=self._stderr, chain=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_set_timer(self, settings: Any) -> bool:  # pytest-timeout keeps the type to itself
        faulthandler.dump_traceback_later(settings.timeout, file=self._stderr, exit=True)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_cancel_timer(self) -> bool:
        faulthandler.cancel_dump_traceback_later()
        return True


def watch(config: pytest.Config) -> None:
    """Register what this process needs: an xdist worker, or the one that prints the results."""
    is_worker = hasattr(config, "workerinput")
    for plugin in (SlowTestLimit(), WorkerStacks(config) if is_worker else RunningTests()):
        config.pluginmanager.register(plugin)
