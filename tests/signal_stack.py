# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A stack for signal handlers that stays, whatever OpenVINO's cores do to it.

OpenVINO gives the main thread such a stack with every core and unmaps it with the core. Tests make many cores and
forget them in any order, so that the thread is left with one that is gone: the next SIGCHLD, for which torch's data
loader has a handler, would kill the test process.
"""

import ctypes
import sys

import pytest


class Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


class SignalStack:
    """Points the main thread to a stack of its own around every test."""

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(1 << 18)
        self._stack = Stack(ctypes.addressof(self._memory), 0, len(self._memory))
        self._libc = ctypes.CDLL(None, use_errno=True)

    def install(self) -> None:
        """Use the stack from now on."""
        if self._libc.sigaltstack(ctypes.byref(self._stack), None):
            raise OSError(ctypes.get_errno(), "sigaltstack failed")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self.install()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self.install()


def keep_signal_stack(config: pytest.Config) -> None:
    """Register it where signals are handled on such stacks."""
    if sys.platform == "linux":
        config.pluginmanager.register(SignalStack())
