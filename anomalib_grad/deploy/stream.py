# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a compiled model over frames as they come: some are read and resized while others are in the model."""

import os
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov
from anomalib.data import NumpyImageBatch

from .frames import Frame

if TYPE_CHECKING:
    from openvino.utils.data_helpers.wrappers import OVDict

Inputs = dict[str, np.ndarray]
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


class Slot:
    """A frame in flight, with a request of its own; used again when its result was taken."""

    def __init__(self, model: ov.CompiledModel) -> None:
        self._request = model.create_infer_request()
        self._request.set_callback(self._note_end, None)
        self.taken = self.done = 0.0

    def _note_end(self, _: object) -> None:
        self.done = time.perf_counter()

    def begin(self, prepare: Callable[[Frame], Inputs], frame: Frame) -> Inputs:
        """Prepare a frame and start the model on it, without waiting for the model."""
        try:
            inputs = prepare(frame)
        finally:
            self.done = time.perf_counter()  # of a frame that is refused
        self._request.start_async(inputs, share_inputs=True)
        return inputs

    def outputs(self) -> "OVDict":
        """Wait for the model."""
        self._request.wait()
        return self._request.results

    def stop(self) -> None:
        """Give up what the model is doing."""
        self._request.cancel()


class Stream:
    """Frames in, results out, in their order.

    Args:
        model: The compiled model; a hint for throughput lets it work on several frames at a time.
        in_flight: Frames that are worked on at a time.
        prepare: Makes the model's inputs of a frame; called in threads.
        finish: Makes a prediction of inputs and outputs.
    """

    def __init__(
        self,
        model: ov.CompiledModel,
        in_flight: int,
        prepare: Callable[[Frame], Inputs],
        finish: Callable[[Inputs, "OVDict"], NumpyImageBatch],
    ) -> None:
        self._model, self._in_flight = model, in_flight
        self._prepare, self._finish = prepare, finish

    def results(self, frames: Iterable[Frame]) -> Generator[FrameResult, None, None]:
        """Give a result for each frame; what ``frames`` raises comes after those of the frames before."""
        slots = [Slot(self._model) for _ in range(self._in_flight)]
        begun: SimpleQueue[Begun | Exception | None] = SimpleQueue()
        free: SimpleQueue[Slot | None] = SimpleQueue()
        for slot in slots:
            free.put(slot)
        readers = ThreadPoolExecutor(min(self._in_flight, os.cpu_count() or 1), thread_name_prefix="frames")
        stopped = Event()
        # A source may take its time, or wait for ever, while results are there: it is asked in a thread of its own.
        Thread(target=self._take, args=(frames, free, begun, readers, stopped), daemon=True).start()
        try:
            while (item := begun.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield self._result(item)
                free.put(item.slot)
        finally:
            stopped.set()
            free.put(None)
            readers.shutdown(cancel_futures=True)
            for slot in slots:
                slot.stop()

    def _take(
        self,
        frames: Iterable[Frame],
        free: "SimpleQueue[Slot | None]",
        begun: "SimpleQueue[Begun | Exception | None]",
        readers: ThreadPoolExecutor,
        stopped: Event,
    ) -> None:
        """Take a frame whenever there is a free slot, until there are no more."""
        try:
            source = iter(frames)
            while (slot := free.get()) is not None and not stopped.is_set():
                frame = next(source, END)
                if stopped.is_set():
                    return
                if frame is END:
                    begun.put(None)
                    return
                slot.taken = time.perf_counter()
                begun.put(Begun(frame, slot, readers.submit(slot.begin, self._prepare, frame)))
        except Exception as error:  # noqa: BLE001  # the source's own, for the caller's thread
            begun.put(error)

    def _result(self, begun: "Begun") -> FrameResult:
        prediction, fault = None, None
        try:
            prediction = self._finish(begun.inputs.result(), begun.slot.outputs())
        except (ValueError, TypeError) as error:  # of this frame: unreadable or no image; others are the machine's
            fault = error
        return FrameResult(begun.frame, prediction, fault, begun.slot.done - begun.slot.taken)


class Begun(NamedTuple):
    """A frame in its slot, and the inputs that are made of it."""

    frame: Any
    slot: Slot
    inputs: "Future[Inputs]"
