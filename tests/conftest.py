# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests; this file also makes ``helpers`` importable."""

import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

# Container images set it to stay small; here it has every process that a test starts compile torch and anomalib anew,
# twenty seconds each.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell has the jobs that it starts in the background ignore Ctrl-C, and they what they start; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers, and what they start, share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every conversion to OpenVINO reports fifty events to Intel, each from a process forked for it: seconds, and a network.
# OpenVINO is quiet where it takes itself to be in a CI; of the variables that it knows, others ask for all but this.
os.environ.setdefault("JENKINS_URL", "none")
os.environ.setdefault("NNCF_CI", "1")

from helpers import DEVIATION, write_category
from signal_stack import keep_signal_stack
from time_limits import watch


def pytest_configure(config: pytest.Config) -> None:
    """Limit the time of tests, say where it went, and keep OpenVINO from ending them all."""
    watch(config)
    keep_signal_stack(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests: a core waits less for the other at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave the million objects of the imported libraries out of garbage collection, a fifth of an export's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure() -> None:
    """Give the objects back, which libraries take for leaked at the end otherwise."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generated categories, ``nut`` and ``pin``, in MVTec AD's layout. Not to be changed by tests."""
    root = tmp_path_factory.mktemp("shop")
    write_category(root / "nut", train=6)
    write_category(root / "pin", train=6)
    return root


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What anomalib's inferencers need: leave to unpickle, and a working directory for OpenVINO's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUST_REMOTE_CODE", "1")
        patch.chdir(tmp_path_factory.mktemp("cwd"))
        yield


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test that tries to reach the network."""

    connect = socket.socket.connect

    def refuse(*address: object, **options: object) -> NoReturn:
        raise AssertionError(f"tried to reach the network: {address}")

    def connect_locally(self: socket.socket, address: str) -> None:
        """Let processes of this machine speak to each other, as data loader workers do."""
        return connect(self, address) if self.family == socket.AF_UNIX else refuse(address)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", connect_locally)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the largest deviation of every golden stage; here because the conftest of a suite is left to workers."""
    rows = [
        value.split("\t")
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == DEVIATION and report.when == "call"
    ]
    if rows:
        terminalreporter.section("deviation from the authors' code, relative to the largest value")
        for stage, deviation, tolerance in rows:
            terminalreporter.write_line(f"{stage:<48} {deviation:>8}   (allowed {tolerance})")
