# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""End at SIGTERM, as job schedulers send it, only after cleaning up."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType


@contextmanager
def cleaning_up_at_sigterm() -> Iterator[None]:
    """Turn SIGTERM into ``SystemExit`` inside the block; by default it ends Python at once and leaves temporary files.

    A handler that is already set is kept. In other threads than the main one, where none can be set, nothing changes.
    """
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
