# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Run exported models and ask them for the product category."""

import json
import re
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov
from anomalib.data import NumpyImageBatch
from anomalib.deploy import OpenVINOInferencer

from anomalib_grad.data.read_or_refuse import FileFormat
from anomalib_grad.settings.groups import is_number
from anomalib_grad.thresholds.post_processor import UNKNOWN

from .checksum import is_intact, present
from .export import CATEGORY, SIZE_METADATA
from .frames import SINGLE, Frame, FrameFormat, as_batch, input_size
from .openvino_graph import show_category, show_raw, tell_category
from .stream import FrameResult, results
from .threshold_files import CATEGORIES_METADATA

if TYPE_CHECKING:
    from openvino.utils.data_helpers.wrappers import OVDict

VIRTUAL_DEVICES = {"AUTO", "BATCH", "HETERO", "MULTI"}
"""What OpenVINO takes for a device and does not list: they choose among, or join, those that there are."""
_core = cache(ov.Core)
_MAKING = threading.Lock()
"""Held while the core is made, for which threads may ask at once."""


def shared_core() -> ov.Core:
    """Give the one OpenVINO core of this process, which lives as long as the process does.

    A core that compiles for the CPU gives the calling thread a stack for signal handlers, and takes it away when it
    ends. Where cores end in another order than they began, a stack that is gone stays in use, and the next signal with
    a handler in Python (Ctrl-C, the end of a data loader's worker) ends the process with a segmentation fault
    (OpenVINO 2026.4).
    """
    with _MAKING:
        return _core()


class RawScores(NamedTuple):
    """What a model makes of images, in the unit of its thresholds.

    Attributes:
        scores: Image scores, ``(B,)``.
        peaks: Largest value of each map, ``(B,)``.
        recognised: The B names of the categories that the images were taken for, whatever was told; ``None`` where
            nothing was told.
    """

    scores: np.ndarray
    peaks: np.ndarray
    recognised: list[str] | None


class CategoryOpenVINOInferencer(OpenVINOInferencer):
    """anomalib's OpenVINO inferencer that says which product it took an image for, and can be told.

    ``predict`` returns the names in anomalib's free-text field ``explanation``, ``"unknown"`` for a product that
    training did not see. On models without categories it is anomalib's inferencer.

    One inferencer serves any number of threads. Files are read by the rules of ``data/pixels.py``, in which training
    through ``MultiCategory`` reads them, and a score never depends on the other images of a batch. Frames of any size
    are resized in the type that they come in, so that a large one costs little more than a small one.

    Args:
        path: Exported model: ``.xml``, ``.bin`` or ``.onnx`` file, or the bytes of ``.xml`` and ``.bin``.
        device: OpenVINO device, such as ``"AUTO"``, ``"CPU"`` or ``"GPU"``.
        config: OpenVINO's options for the device, added to ``EXECUTION_MODE_HINT: ACCURACY``. Without that, OpenVINO
            computes in bfloat16 where the CPU can, in which the small differences that make an anomaly map are lost.
            ``{"EXECUTION_MODE_HINT": "PERFORMANCE"}`` switches back. ``{"CACHE_DIR": folder}`` keeps compiled models,
            which anomalib does by itself: the next start is faster, but OpenVINO notices no damage to what it kept.
        bits: Bits, 10 to 16, that pixels of 16 use in arrays, tensors and files: 12 for a camera that counts to 4095.
            Train on files of the same range.
        channel_order: ``"RGB"``, or ``"BGR"`` as OpenCV gives them, of arrays and tensors.
        max_pixels: Pixels of the largest file that is read, as of a line-scan camera; ``None`` leaves the limit, 178
            million, to Pillow's guard against files that claim more than they hold. Arrays have no limit.

    Attributes:
        categories: Names of the categories that the model knows, none if it was trained without.
        image_size: Height and width that the model looks at, to which frames are resized first; ``None`` for exports
            that do not say so: they resize large images themselves, slowly, until they are exported again; and for
            those whose ``input_size`` is another: they take frames of that size only.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> inferencer = CategoryOpenVINOInferencer("results/weights/openvino/model.xml")  # doctest: +SKIP
        >>> inferencer.predict("image.png").explanation  # doctest: +SKIP
        ['bottle']
        >>> inferencer.predict("image.png", category="bottle").pred_label  # doctest: +SKIP
        array([ True])
    """

    categories: list[str]
    image_size: tuple[int, int] | None
    config: dict[str, Any]

    def __init__(
        self,
        path: str | Path | tuple[bytes, bytes],
        device: str | None = "AUTO",
        config: dict[str, Any] | None = None,
        *,
        bits: int = 16,
        channel_order: str = "RGB",
        max_pixels: int | None = None,
    ) -> None:
        frames = FrameFormat(None, FileFormat(bits, max_pixels), channel_order).checked()
        super().__init__(path, device, {"EXECUTION_MODE_HINT": "ACCURACY"} | (config or {}))
        self._frames = frames._replace(size=self.image_size)

    def load_model(self, path: str | Path | tuple[bytes, bytes]) -> tuple[Any, Any, Any]:
        """Read and compile a model, with the recognised category as a further output.

        Returns:
            First input, first output, compiled model.

        Raises:
            ValueError: If the file is of another kind, or the device is not there.
        """
        self._core = shared_core()
        self._graph = read_model(self._core, path)
        self.categories = read_categories(self._graph)
        self._fixed_size = input_size(self._graph)
        image_size = read_image_size(self._graph)  # a detour over another fixed size would change the scores
        self.image_size = image_size if self._fixed_size in {None, image_size} else None
        compiled = self._compile(self._showing)
        self._versions = {(False, False): PerThread(compiled)}
        self._compiling = threading.Lock()
        return compiled.input(0), compiled.output(0), compiled

    @property
    def _showing(self) -> ov.Model:
        return show_category(self._graph) if self.categories else self._graph

    def _version(self, *, told: bool, raw: bool = False) -> "PerThread":
        """The model that is told the category or not, and shows raw scores or not; compiled when first asked for."""
        with self._compiling:
            if (told, raw) not in self._versions:
                graph = show_raw(self._graph, told=told) if raw else tell_category(self._graph)
                self._versions[told, raw] = PerThread(self._compile(graph))
            return self._versions[told, raw]

    def _compile(self, model: ov.Model, **options: str) -> ov.CompiledModel:
        try:
            return self._core.compile_model(model=model, device_name=self.device, config={**options, **self.config})
        except RuntimeError as error:
            kind, *_ = re.split("[.:]", self.device or "")
            there = ["AUTO", *self._core.available_devices]
            if kind in VIRTUAL_DEVICES | {device.partition(".")[0] for device in there}:
                raise
            raise ValueError(
                f"OpenVINO has no device {self.device!r} here; choose one of {', '.join(there)}."
            ) from error

    def predict(self, image: Frame, category: str | None = None) -> NumpyImageBatch:
        """Run inference on an image, or on several as an array or tensor.

        Args:
            image: File, Pillow image, or grey or RGB pixels of shape ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``, or
                several as ``(B, H, W, C)`` or ``(B, C, H, W)``, with one or three channels C; floating-point values in
                [0, 1] or [0, 255], integers in the range of their 8 or 16 bits.
            category: Category of all the images, if known; recognised if ``None``.

        Returns:
            anomalib's batch, ``explanation`` with the names of the categories, recognised or told, ``image`` as the
            model looked at it.

        Raises:
            UnreadableImageError: If the file cannot be read; names it.
            ValueError: If the pixels have another shape or range, or a size that a model exported with ``input_size``
                does not take, or the model does not know the category; lists those that it knows.
        """
        index = self._index(category)
        inputs = self._inputs(image, index)
        return self._result(inputs, self._version(told=index is not None)(inputs), category)

    def raw_scores(self, image: Frame, category: str | None = None) -> RawScores:
        """Score images in the unit of the model's thresholds, not normalised.

        Args:
            image: As of :meth:`predict`.
            category: Category of all the images, or ``"unknown"``; recognised if ``None``.

        Raises:
            ValueError: As of :meth:`predict`, and if the model was exported by a version that does not show them.
        """
        unknown = len(self.categories) if self.categories and category == UNKNOWN else None
        index = self._index(category) if unknown is None else unknown
        inputs = self._inputs(image, index)
        score, anomaly_map, *recognised = self._version(told=index is not None, raw=True)(inputs).values()
        names = self._names(recognised[0]) if recognised else None
        return RawScores(score.reshape(-1), anomaly_map.reshape(len(anomaly_map), -1).max(axis=1), names)

    def stream(
        self, frames: Iterable[Frame], in_flight: int = 4, category: str | None = None
    ) -> Generator[FrameResult, None, None]:
        """Run inference on frames as they come: the next are read and resized while the model is at work.

        The model is compiled once more for this, for many requests at a time instead of a short one. No more than
        ``in_flight`` frames are in memory. ``close()`` stops all work.

        Args:
            frames: Whatever ``predict`` takes, one image each; asked for the next in a thread of its own.
                An array that its source writes over must be given as a copy: it may be read after the next was taken.
            in_flight: Frames that are worked on at a time. More are faster up to about twice the cores, and each then
                waits longer.
            category: Category of all the frames, if known; recognised if ``None``.

        Returns:
            A result for each frame, in their order. One that cannot be read or judged has its ``error`` there.

        Raises:
            TypeError: If ``frames`` is a single image.
            ValueError: If ``in_flight`` is not a whole number from 1, or the model does not know the category.
            Exception: What ``frames`` raises, after the results of the frames that it gave before.

        Example:
            >>> for result in inferencer.stream(sorted(Path("line3").glob("*.png"))):  # doctest: +SKIP
            ...     print(result.frame, result.error or result.prediction.pred_score)
        """
        if isinstance(frames, SINGLE):
            kind = type(frames).__name__
            raise TypeError(
                f"frames must be several, such as a list or a generator, got a {kind}; give one as [image]."
            )
        if not is_number(in_flight, Integral) or in_flight < 1:
            raise ValueError(f"in_flight must be a whole number of frames from 1, got {in_flight!r}.")
        index = self._index(category)
        graph = self._showing if index is None else tell_category(self._graph)
        model = PerThread(self._compile(graph, PERFORMANCE_HINT="THROUGHPUT"))

        def judge(frame: Frame) -> NumpyImageBatch:
            inputs = self._inputs(frame, index)
            return self._result(inputs, model(inputs), category)

        return results(frames, in_flight, judge)

    def _index(self, category: str | None) -> int | None:
        """Index of a category; a ValueError lists those that the model knows if it is none of them."""
        if category is None:
            return None
        if category not in self.categories:
            known = ", ".join(self.categories) or "none, it learnt to tell none apart"
            raise ValueError(f"The model knows no category {category!r}; choose one of those that it knows: {known}.")
        return self.categories.index(category)

    def _inputs(self, image: Frame, category: int | None) -> dict[str, np.ndarray]:
        """The model's inputs: images ``(B, 3, H, W)``, and the index of their category if that is told."""
        images = np.ascontiguousarray(as_batch(image, self._frames).transpose(0, 3, 1, 2))
        if self._fixed_size not in {None, images.shape[2:]}:
            fixed, given = (" x ".join(map(str, size)) for size in (self._fixed_size, images.shape[2:]))
            raise ValueError(
                f"The model was exported for images of {fixed} pixels, height x width, and this one has {given}; "
                "export it without input_size, and it takes any size."
            )
        told = {} if category is None else {CATEGORY: np.full(len(images), category, dtype=np.int64)}
        return {self.input_blob.any_name: images, **told}

    def _result(self, inputs: dict[str, np.ndarray], outputs: "OVDict", category: str | None) -> NumpyImageBatch:
        batch = NumpyImageBatch(image=inputs[self.input_blob.any_name], **self.post_process(outputs))
        if category is not None:
            batch.explanation = [category] * batch.batch_size
        return batch

    def post_process(self, predictions: "OVDict") -> dict[str, Any]:  # type: ignore[override]  # static in anomalib
        """Convert predictions to a dictionary, category indices to names."""
        values = OpenVINOInferencer.post_process(predictions)
        if CATEGORY in values:
            values["explanation"] = self._names(values.pop(CATEGORY))
        return values

    def _names(self, indices: np.ndarray) -> list[str]:
        names = [*self.categories, UNKNOWN]
        if max(indices, default=0) >= len(names):
            raise ValueError("the exported model has more categories than names of them; export it again.")
        return [names[index] for index in indices]


class PerThread:
    """Runs a compiled model from any thread: each has a request of its own, as OpenVINO's run one call at a time."""

    def __init__(self, model: ov.CompiledModel) -> None:
        self._model = model
        self._own = threading.local()

    def __call__(self, inputs: dict[str, np.ndarray]) -> "OVDict":
        """Compute the outputs."""
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        return self._own.request.infer(inputs, share_inputs=True)


def read_model(core: ov.Core, path: str | Path | tuple[bytes, bytes]) -> ov.Model:
    """Read an exported model.

    Args:
        core: OpenVINO.
        path: ``.xml``, ``.bin`` or ``.onnx`` file, or the bytes of ``.xml`` and ``.bin``.

    Raises:
        FileNotFoundError: If it is not there, or lacks the file of its weights; names the one that is missing.
        ValueError: If the file is of another kind, or damaged.
    """
    if isinstance(path, tuple):
        return _read_intact(core, path, "the model", path)
    path = Path(path)
    if path.suffix not in {".onnx", ".bin", ".xml"}:
        raise ValueError(f"Pass a .xml, .bin or .onnx file, not {path}.")
    needed = present(path)
    return _read_intact(core, needed[:1], " or ".join(map(str, needed)), [file.read_bytes() for file in needed])


def _read_intact(core: ov.Core, model: Sequence[Path | bytes], name: str, contents: Sequence[bytes]) -> ov.Model:
    """Read a model, of one file or of model and weights, unless contents differ from those that were exported."""
    damaged = f"cannot read the exported model: {name} is damaged, or was changed since; export or copy it again."
    if not is_intact(*contents):
        raise ValueError(damaged)
    try:
        return core.read_model(*model)
    except RuntimeError as error:
        raise ValueError(damaged) from error


def read_categories(model: ov.Model) -> list[str]:
    """Names of the categories in the metadata, none if there are none; a ValueError if they are no names any more."""

    def are_names(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(name, str) for name in value)

    return read_metadata(model, CATEGORIES_METADATA, "category names", are_names) or []


def read_image_size(model: ov.Model) -> tuple[int, int] | None:
    """Height and width to which the model resizes images, ``None`` if it does not say so; a ValueError if damaged."""

    def are_lengths(value: object) -> bool:
        return isinstance(value, list) and [type(length) for length in value] == [int, int] and min(value) > 0

    size = read_metadata(model, SIZE_METADATA, "height and width", are_lengths)
    return None if size is None else (size[0], size[1])


def read_metadata(model: ov.Model, key: str, name: str, is_valid: Callable[[object], bool]) -> Any:  # noqa: ANN401
    """Read what the export wrote into the metadata under ``key``, ``None`` if there is nothing.

    Raises:
        ValueError: If it is no JSON that ``is_valid``; calls it by ``name``.
    """
    entry = ["framework", key]
    if not model.has_rt_info(entry):
        return None
    noted = model.get_rt_info(entry).value
    try:
        value = json.loads(noted)
    except (ValueError, TypeError, RecursionError):
        value = None
    if not is_valid(value):
        raise ValueError(f"the exported model's {name} are damaged ({noted!r:.60}); export or copy it again.")
    return value
