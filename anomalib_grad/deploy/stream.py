# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelined inference on a stream of frames, in order: some are read and resized while others are in the model."""

import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import NamedTuple

from anomalib.data import NumpyImageBatch

from .frames import Frame


class FrameResult(NamedTuple):
    """Result of one frame of a stream.

    Attributes:
        frame: The frame as the source provided it: a path, an array, ...
        prediction: The prediction as ``predict`` returns it; ``None`` if there is an error.
        error: Why the frame could not be read or predicted, or ``None``.
        seconds: Time from drawing the frame from its source to its result.
    """

    frame: Frame
    prediction: NumpyImageBatch | None
    error: Exception | None
    seconds: float


def results(
    frames: Iterable[Frame], in_flight: int, judge: Callable[[Frame], NumpyImageBatch]
) -> Generator[FrameResult, None, None]:
    """Yield a result for each frame; an exception of ``frames`` is raised after the results of all earlier frames.

    Args:
        frames: Source of frames; drawn in a separate thread, since it may block while results are ready.
        in_flight: Number of frames processed at a time, each in its own thread.
        judge: Predicts on a frame.
    """
    begun: SimpleQueue[Future[FrameResult] | BaseException] = SimpleQueue()
    room, stopped = Semaphore(in_flight), Event()
    workers = ThreadPoolExecutor(in_flight, thread_name_prefix="frames")

    def take() -> None:
        """Draw a frame whenever there is room, until there are no more."""
        try:
            source = iter(frames)
            while room.acquire() and not stopped.is_set():
                begun.put(workers.submit(_judged, judge, next(source), time.perf_counter()))
        except BaseException as error:  # noqa: BLE001  # the source's own, sys.exit as well: the caller waits for it
            begun.put(error)

    Thread(target=take, daemon=True).start()
    try:
        while not isinstance(item := begun.get(), StopIteration):
            if isinstance(item, BaseException):
                raise item
            yield item.result()
            room.release()
    finally:
        stopped.set()
        room.release()
        workers.shutdown(cancel_futures=True)


def _judged(judge: Callable[[Frame], NumpyImageBatch], frame: Frame, taken: float) -> FrameResult:
    prediction, fault = None, None
    try:
        prediction = judge(frame)
    except (ValueError, TypeError) as error:  # the frame's fault: unreadable or not an image; others are the machine's
        fault = error
    return FrameResult(frame, prediction, fault, time.perf_counter() - taken)
