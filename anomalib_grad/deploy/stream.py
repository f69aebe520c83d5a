# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Judges frames as they come, in their order: some are read and resized while others are in the model."""

import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, NamedTuple

from anomalib.data import NumpyImageBatch

from .frames import Frame

END: Any = object()


class FrameResult(NamedTuple):
    """What became of a frame of a stream.

    Attributes:
        frame: What the stream was given: a path, an array, ...
        prediction: The prediction as ``predict`` gives it; ``None`` if there is an error.
        error: Why the frame could not be read or judged, or ``None``.
        seconds: Time from when the frame was taken from its source until its result was there.
    """

    frame: Frame
    prediction: NumpyImageBatch | None
    error: Exception | None
    seconds: float


def results(
    frames: Iterable[Frame], in_flight: int, judge: Callable[[Frame], NumpyImageBatch]
) -> Generator[FrameResult, None, None]:
    """Give a result for each frame; what ``frames`` raises comes after those of the frames before.

    Args:
        frames: Where frames come from; asked for the next in a thread of its own, as it may take its time, or wait for
            ever, while results are there.
        in_flight: Frames that are worked on at a time, each in a thread.
        judge: Predicts on a frame.
    """
    begun: SimpleQueue[Future[FrameResult] | BaseException | None] = SimpleQueue()
    room, stopped = Semaphore(in_flight), Event()
    workers = ThreadPoolExecutor(in_flight, thread_name_prefix="frames")

    def take() -> None:
        """Take a frame whenever there is room for one, until there are no more."""
        try:
            source = iter(frames)
            while room.acquire() and not stopped.is_set():
                frame = next(source, END)
                if stopped.is_set():
                    return
                begun.put(None if frame is END else workers.submit(_judged, judge, frame, time.perf_counter()))
                if frame is END:
                    return
        except BaseException as error:  # noqa: BLE001  # the source's own, sys.exit as well: the caller waits for it
            begun.put(error)

    Thread(target=take, daemon=True).start()
    try:
        while (item := begun.get()) is not None:
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
    except (ValueError, TypeError) as error:  # of this frame: unreadable or no image; others are the machine's
        fault = error
    return FrameResult(frame, prediction, fault, time.perf_counter() - taken)
