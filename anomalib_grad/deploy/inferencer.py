# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO inferencer for exported models, with a recognised or a given product category."""

import json
import re
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from anomalib.data import NumpyImageBatch
from anomalib.deploy import OpenVINOInferencer

from anomalib_grad.data.read_or_refuse import FileFormat
from anomalib_grad.settings.groups import is_number
from anomalib_grad.thresholds.post_processor import UNKNOWN

from .checksum import existing_files, is_intact
from .export import CATEGORY, SIZE_METADATA
from .frames import SINGLE_IMAGE_TYPES, Frame, FrameFormat, as_batch, input_size
from .openvino_graph import variant
from .stream import FrameResult, results
from .threshold_files import CATEGORIES_METADATA

if TYPE_CHECKING:
    from openvino.utils.data_helpers.wrappers import OVDict

VIRTUAL_DEVICES = {"AUTO", "BATCH", "HETERO", "MULTI"}
"""Devices that OpenVINO accepts but does not list: they select or combine real devices."""
_CORE = ov.Core()
"""The process's only OpenVINO core, which lives as long as the process.

A core that compiles for the CPU installs a stack for signal handlers in the calling thread, and removes it when the
core is destroyed. If cores are not destroyed in the order of their creation, a removed stack stays in use. The next
signal with a Python handler (Ctrl-C, the end of a data loader's worker) then causes a segmentation fault
(OpenVINO 2026.4).
"""


class CategoryOpenVINOInferencer(OpenVINOInferencer):
    """anomalib's OpenVINO inferencer, extended by the product of an image, which is recognised or given.

    ``predict`` returns the category names in anomalib's free-text field ``explanation``, ``"unknown"`` for a product
    that training did not show. On models without categories, it works as anomalib's inferencer.

    One inferencer serves any number of threads. Files are read by the rules of ``data/pixels.py``, as in training
    through ``MultiCategory``. A score never depends on the other images of a batch. Frames of any size are resized in
    their original data type, so that a large one costs little more than a small one.

    Args:
        path: Exported model: ``.xml``, ``.bin`` or ``.onnx`` file, or the bytes of ``.xml`` and ``.bin``.
        device: OpenVINO device, such as ``"AUTO"``, ``"CPU"`` or ``"GPU"``.
        config: OpenVINO's options for the device, added to ``EXECUTION_MODE_HINT: ACCURACY``. Without that hint,
            OpenVINO computes in bfloat16 if the CPU can, which loses the small differences that make an anomaly map.
            ``{"EXECUTION_MODE_HINT": "PERFORMANCE"}`` switches back. ``{"CACHE_DIR": folder}`` caches compiled models,
            anomalib's default: the next start is faster, but OpenVINO does not notice damage to the cache.
        bits: Bits, 10 to 16, that 16-bit pixels actually use in arrays, tensors and files: 12 for a camera with values
            up to 4095. Train on files of the same range.
        channel_order: Channel order of arrays and tensors: ``"RGB"``, or ``"BGR"`` as in OpenCV.
        max_pixels: Largest file to read, in pixels, for instance from a line-scan camera. ``None`` keeps Pillow's limit
            of 178 million, a guard against files that claim more than they hold. Arrays have no limit.

    Attributes:
        categories: Names of the categories that the model knows, empty if it was trained without.
        image_size: Height and width of the model's input, to which frames are resized first. It is ``None`` for old
            exports that do not declare it: they resize large images by themselves, slowly; export them again. It is
            also ``None`` for exports with another ``input_size``, which accept only frames of that size.

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
        """Read and compile a model, with the recognised category as an additional output.

        Returns:
            First input, first output, compiled model.

        Raises:
            ValueError: If the file is of another kind or damaged, or if the device does not exist.
        """
        self._graph = read_model(path)
        self.categories = read_categories(self._graph)
        self._fixed_size = input_size(self._graph)
        image_size = read_image_size(self._graph)  # resizing twice would change the scores
        self.image_size = image_size if self._fixed_size in {None, image_size} else None
        compiled = self._compile(self._variant())
        self._compiled = {(False, False): PerThread(compiled)}
        self._compiling = threading.Lock()
        return compiled.input(0), compiled.output(0), compiled

    def _variant(self, *, told: bool = False, raw: bool = False) -> ov.Model:
        return variant(self._graph, recognises=bool(self.categories), told=told, raw=raw)

    def _model(self, *, told: bool, raw: bool = False) -> "PerThread":
        """Return the model with the category as an input or not, and raw scores or not; compiled on first use."""
        with self._compiling:
            if (told, raw) not in self._compiled:
                self._compiled[told, raw] = PerThread(self._compile(self._variant(told=told, raw=raw)))
            return self._compiled[told, raw]

    def _compile(self, model: ov.Model, **options: str) -> ov.CompiledModel:
        try:
            return _CORE.compile_model(model=model, device_name=self.device, config={**options, **self.config})
        except RuntimeError as error:
            kind, *_ = re.split("[.:]", self.device or "")
            there = ["AUTO", *_CORE.available_devices]
            if kind in VIRTUAL_DEVICES | {device.partition(".")[0] for device in there}:
                raise
            raise ValueError(
                f"OpenVINO has no device {self.device!r} on this machine; choose one of {', '.join(there)}."
            ) from error

    def predict(self, image: Frame, category: str | None = None) -> NumpyImageBatch:
        """Run inference on one image, or on several in an array or tensor.

        Args:
            image: File, Pillow image, or grey or RGB pixels of shape ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``;
                several images as ``(B, H, W, C)`` or ``(B, C, H, W)``, with one or three channels C. Floating-point
                values are in [0, 1] or [0, 255], integers in the range of their 8 or 16 bits.
            category: Category of all the images, if known; recognised if ``None``.

        Returns:
            anomalib's batch; ``explanation`` has the category names, recognised or given, and ``image`` the model's
            input.

        Raises:
            UnreadableImageError: If the file cannot be read.
            ValueError: If the pixels have another shape or range, if a model exported with ``input_size`` does not
                accept their size, or if the model does not know the category; the message lists those that it knows.
        """
        index = self._index(category)
        inputs = self._inputs(image, index)
        return self._result(inputs, self._model(told=index is not None)(inputs), category)

    def raw_scores(self, image: Frame, category: str | None = None) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
        """Score images in the unit of the model's thresholds, not normalised.

        Args:
            image: As in :meth:`predict`.
            category: Category of all the images, or ``"unknown"``; recognised if ``None``.

        Returns:
            Image scores and largest values of the maps, ``(B,)`` each, and names of the recognised categories, ``None``
            if the model knows none.

        Raises:
            ValueError: As in :meth:`predict`, and if an old version without raw scores exported the model.
        """
        unknown = len(self.categories) if self.categories and category == UNKNOWN else None
        index = self._index(category) if unknown is None else unknown
        inputs = self._inputs(image, index)
        score, anomaly_map, *recognised = self._model(told=index is not None, raw=True)(inputs).values()
        names = self._names(recognised[0]) if recognised else None
        return score.reshape(-1), anomaly_map.reshape(len(anomaly_map), -1).max(axis=1), names

    def stream(
        self, frames: Iterable[Frame], in_flight: int = 4, category: str | None = None
    ) -> Generator[FrameResult, None, None]:
        """Run inference on frames as they arrive; the next ones are read and resized while the model computes.

        The model is compiled again for this, for throughput instead of latency. At most ``in_flight`` frames are in
        memory. ``close()`` stops all work.

        Args:
            frames: Inputs of ``predict``, one image each; a separate thread draws them. If the source reuses an array,
                pass a copy: it may still be read after the next frame has been drawn.
            in_flight: Frames processed at a time. Throughput grows up to about twice the number of cores, but each
                frame then waits longer.
            category: Category of all the frames, if known; recognised if ``None``.

        Returns:
            A result for each frame, in order. If a frame cannot be read or predicted, its result has an ``error``.

        Raises:
            TypeError: If ``frames`` is a single image.
            ValueError: If ``in_flight`` is not a whole number from 1, or the model does not know the category.
            Exception: Whatever ``frames`` raises, after the results of all earlier frames.

        Example:
            >>> for result in inferencer.stream(sorted(Path("line3").glob("*.png"))):  # doctest: +SKIP
            ...     print(result.frame, result.error or result.prediction.pred_score)
        """
        if isinstance(frames, SINGLE_IMAGE_TYPES):
            kind = type(frames).__name__
            raise TypeError(
                f"frames must be several images, such as a list or a generator, got a {kind}; give one as [image]."
            )
        if not is_number(in_flight, Integral) or in_flight < 1:
            raise ValueError(f"in_flight must be a whole number of at least 1, got {in_flight!r}.")
        index = self._index(category)
        model = PerThread(self._compile(self._variant(told=index is not None), PERFORMANCE_HINT="THROUGHPUT"))

        def judge(frame: Frame) -> NumpyImageBatch:
            inputs = self._inputs(frame, index)
            return self._result(inputs, model(inputs), category)

        return results(frames, in_flight, judge)

    def _index(self, category: str | None) -> int | None:
        """Return the index of a category, or raise a ValueError that lists those that the model knows."""
        if category is None:
            return None
        if category not in self.categories:
            advice = f"choose one of {', '.join(self.categories)}" if self.categories else "it knows none, so give none"
            raise ValueError(f"The model does not know the category {category!r}; {advice}.")
        return self.categories.index(category)

    def _inputs(self, image: Frame, category: int | None) -> dict[str, np.ndarray]:
        """Return the model's inputs: images ``(B, 3, H, W)``, and their category indices if one is given."""
        images = np.ascontiguousarray(as_batch(image, self._frames).transpose(0, 3, 1, 2))
        if self._fixed_size not in {None, images.shape[2:]}:
            fixed, given = (" x ".join(map(str, size)) for size in (self._fixed_size, images.shape[2:]))
            raise ValueError(
                f"The model was exported for images of {fixed} pixels (height x width), but this image has {given}; "
                "export the model without input_size to accept any size."
            )
        told = {} if category is None else {CATEGORY: np.full(len(images), category, dtype=np.int64)}
        return {self.input_blob.any_name: images, **told}

    def _result(self, inputs: dict[str, np.ndarray], outputs: "OVDict", category: str | None) -> NumpyImageBatch:
        batch = NumpyImageBatch(image=inputs[self.input_blob.any_name], **self.post_process(outputs))
        if category is not None:
            batch.explanation = [category] * batch.batch_size
        return batch

    def post_process(self, predictions: "OVDict") -> dict[str, Any]:  # type: ignore[override]  # static in anomalib
        """Convert predictions to a dictionary, with category names instead of indices."""
        values = OpenVINOInferencer.post_process(predictions)
        if CATEGORY in values:
            values["explanation"] = self._names(values.pop(CATEGORY))
        return values

    def _names(self, indices: np.ndarray) -> list[str]:
        names = [*self.categories, UNKNOWN]
        if max(indices, default=0) >= len(names):
            raise ValueError("the exported model has more categories than category names; export it again.")
        return [names[index] for index in indices]


class PerThread(threading.local):
    """Runs a compiled model from any thread; each has its own request, since a request runs one call at a time."""

    def __init__(self, model: ov.CompiledModel) -> None:  # called once more in each thread
        self._request = model.create_infer_request()

    def __call__(self, inputs: dict[str, np.ndarray]) -> "OVDict":
        """Compute the outputs."""
        return self._request.infer(inputs, share_inputs=True)


def read_model(path: str | Path | tuple[bytes, bytes]) -> ov.Model:
    """Read an exported model.

    Args:
        path: ``.xml``, ``.bin`` or ``.onnx`` file, or the bytes of ``.xml`` and ``.bin``.

    Raises:
        FileNotFoundError: If the model or the file of its weights is missing.
        ValueError: If the file is of another kind, or damaged.
    """
    source: Sequence[Path | bytes]
    contents: Sequence[bytes]
    if isinstance(path, tuple):
        source, contents, name = path, path, "the model"
    else:
        path = Path(path)
        if path.suffix not in {".onnx", ".bin", ".xml"}:
            raise ValueError(f"Pass a .xml, .bin or .onnx file, not {path}.")
        files = existing_files(path)
        source, contents, name = files[:1], [file.read_bytes() for file in files], " or ".join(map(str, files))
    damaged = (
        f"cannot read the exported model: {name} is damaged, or was changed after the export; export or copy it again."
    )
    if not is_intact(*contents):
        raise ValueError(damaged)
    try:
        return _CORE.read_model(*source)
    except RuntimeError as error:
        raise ValueError(damaged) from error


def read_categories(model: ov.Model) -> list[str]:
    """Return the category names in the metadata, empty if there are none; raise a ValueError if they are damaged."""

    def are_names(value: Any) -> bool:  # noqa: ANN401  # whatever a file holds
        return isinstance(value, list) and all(isinstance(name, str) for name in value)

    return read_metadata(model, CATEGORIES_METADATA, "category names", are_names) or []


def read_image_size(model: ov.Model) -> tuple[int, int] | None:
    """Return the size to which the model resizes images, ``None`` if unknown; raise a ValueError if it is damaged."""

    def are_lengths(value: object) -> bool:
        return isinstance(value, list) and [type(length) for length in value] == [int, int] and min(value) > 0

    size = read_metadata(model, SIZE_METADATA, "height and width", are_lengths)
    return None if size is None else (size[0], size[1])


def read_metadata(model: ov.Model, key: str, name: str, is_valid: Callable[[object], bool]) -> Any:  # noqa: ANN401
    """Read a JSON value that the export wrote into the metadata under ``key``; ``None`` if there is none.

    Raises:
        ValueError: If it is not JSON, or fails ``is_valid``; the message calls it ``name``.
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
