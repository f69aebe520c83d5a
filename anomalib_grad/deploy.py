# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Run exported models and ask them for the product category."""

import json
import threading
from copy import copy
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import torch
from anomalib.data import NumpyImageBatch
from anomalib.deploy import OpenVINOInferencer
from openvino import opset13
from PIL.Image import Image

from .deploy_input import as_batch
from .evaluation.post_processor import UNKNOWN
from .export import CATEGORIES_METADATA, CATEGORY
from .export_seal import files_of, is_intact

if TYPE_CHECKING:
    from openvino.utils.data_helpers.wrappers import OVDict


@cache
def shared_core() -> ov.Core:
    """Give the one OpenVINO core of this process, which lives as long as the process does.

    A core that compiles for the CPU gives the calling thread a stack for signal handlers, and takes it away when it
    ends. Where cores end in another order than they began, a stack that is gone stays in use, and the next signal with
    a handler in Python (Ctrl-C, the end of a data loader's worker) ends the process with a segmentation fault
    (OpenVINO 2026.4).
    """
    return ov.Core()


class CategoryOpenVINOInferencer(OpenVINOInferencer):
    """anomalib's OpenVINO inferencer that says which product it took an image for, and can be told.

    ``predict`` returns the names in anomalib's free-text field ``explanation``, ``"unknown"`` for a product that
    training did not see. On models without categories it is anomalib's inferencer.

    One inferencer serves any number of threads. Files are read by the rules of ``data/pixels.py``, in which training
    through ``MultiCategory`` reads them, and a score never depends on the other images of a batch.

    Args:
        path: Exported model: ``.xml``, ``.bin`` or ``.onnx`` file, or the bytes of ``.xml`` and ``.bin``.
        device: OpenVINO device, such as ``"AUTO"``, ``"CPU"`` or ``"GPU"``.
        config: OpenVINO's options for the device, added to ``EXECUTION_MODE_HINT: ACCURACY``. Without that, OpenVINO
            computes in bfloat16 where the CPU can, in which the small differences that make an anomaly map are lost.
            ``{"EXECUTION_MODE_HINT": "PERFORMANCE"}`` switches back. ``{"CACHE_DIR": folder}`` keeps compiled models,
            which anomalib does by itself: the next start is faster, but OpenVINO notices no damage to what it kept.

    Attributes:
        categories: Names of the categories that the model knows, none if it was trained without.

    Example:
        >>> inferencer = CategoryOpenVINOInferencer("results/weights/openvino/model.xml")  # doctest: +SKIP
        >>> inferencer.predict("image.png").explanation  # doctest: +SKIP
        ['bottle']
        >>> inferencer.predict("image.png", category="bottle").pred_label  # doctest: +SKIP
        array([ True])
    """

    categories: list[str]

    def __init__(
        self,
        path: str | Path | tuple[bytes, bytes],
        device: str | None = "AUTO",
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path, device, {"EXECUTION_MODE_HINT": "ACCURACY"} | (config or {}))

    def load_model(self, path: str | Path | tuple[bytes, bytes]) -> tuple[Any, Any, Any]:
        """Read and compile a model, with the recognised category as a further output.

        Args:
            path: File, or the bytes of ``.xml`` and ``.bin``.

        Returns:
            First input, first output, compiled model.

        Raises:
            ValueError: If the file is of another kind.
        """
        self._core = shared_core()
        self._graph = read_model(self._core, path)
        self.categories = read_categories(self._graph)
        compiled = self._compile(show_category(self._graph) if self.categories else self._graph)
        return compiled.input(0), compiled.output(0), compiled

    @cached_property
    def _recognising(self) -> "PerThread":
        return PerThread(self.model)

    def _compile(self, model: ov.Model) -> ov.CompiledModel:
        return self._core.compile_model(model=model, device_name=self.device, config=self.config)

    @cached_property
    def _told(self) -> "PerThread":
        """The model that is told the category; compiled when first asked for."""
        return PerThread(self._compile(tell_category(self._graph)))

    def predict(
        self,
        image: str | Path | np.ndarray | Image | torch.Tensor,
        category: str | None = None,
    ) -> NumpyImageBatch:
        """Run inference on an image, or on several as an array or tensor.

        Args:
            image: File, Pillow image, or RGB pixels of shape ``(H, W, 3)`` or ``(3, H, W)``, or several as ``(B, H, W,
                3)`` or ``(B, 3, H, W)``; floating-point values in [0, 1] or [0, 255], integers in the range of their 8
                or 16 bits.
            category: Category of all the images, if known; recognised if ``None``.

        Returns:
            anomalib's batch, ``explanation`` with the names of the categories, recognised or told.

        Raises:
            UnreadableImageError: If the file cannot be read; names it.
            ValueError: If the pixels have another shape or range, or the model does not know the category; lists those
                that it knows.
        """
        if category is not None and category not in self.categories:
            known = ", ".join(self.categories) or "none, it was trained without categories"
            raise ValueError(f"The model knows no category {category!r}; choose one of those that it knows: {known}.")
        images, runner = as_batch(image), copy(self)  # a copy, as threads share this inferencer
        runner.model = self._recognising
        if category is not None:
            told = {CATEGORY: np.full(len(images), self.categories.index(category), dtype=np.int64)}
            runner.model = lambda inputs: self._told({**inputs, **told})
        batch = super(CategoryOpenVINOInferencer, runner).predict(images)
        if category is not None:
            batch.explanation = [category] * batch.batch_size
        return batch

    def post_process(self, predictions: "OVDict") -> dict[str, Any]:  # type: ignore[override]  # static in anomalib
        """Convert predictions to a dictionary, category indices to names."""
        values = OpenVINOInferencer.post_process(predictions)
        if CATEGORY in values:
            names = [*self.categories, UNKNOWN]
            indices = values.pop(CATEGORY)
            if max(indices, default=0) >= len(names):
                raise ValueError("the exported model has more categories than names of them; export it again.")
            values["explanation"] = [names[index] for index in indices]
        return values


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

    Returns:
        The model.

    Raises:
        FileNotFoundError: If it is not there, or lacks the file of its weights; names the one that is missing.
        ValueError: If the file is of another kind, or damaged.
    """
    if isinstance(path, tuple):
        return _read_intact(core, path[0], path[1], "the model", path[0], path[1])
    path = Path(path)
    if path.suffix not in {".onnx", ".bin", ".xml"}:
        raise ValueError(f"Pass a .xml, .bin or .onnx file, not {path}.")
    needed = files_of(path)
    for file in needed:
        if not file.is_file():
            raise FileNotFoundError(f"there is no exported model at {path}: {file} is missing; export or copy it.")
    return _read_intact(core, needed[0], None, " or ".join(map(str, needed)), *(file.read_bytes() for file in needed))


def _read_intact(core: ov.Core, model: Path | bytes, weights: bytes | None, name: str, *contents: bytes) -> ov.Model:
    """Read a model, unless the contents of its files differ from those that were exported."""
    damaged = f"cannot read the exported model: {name} is damaged, or was changed since; export or copy it again."
    if not is_intact(*contents):
        raise ValueError(damaged)
    try:
        return core.read_model(model) if weights is None else core.read_model(model=model, weights=weights)
    except RuntimeError as error:
        raise ValueError(damaged) from error


def read_categories(model: ov.Model) -> list[str]:
    """Names of the categories that the export wrote into the metadata, none if there are none.

    Raises:
        ValueError: If they are no names any more.
    """
    entry = ["framework", CATEGORIES_METADATA]
    if not model.has_rt_info(entry):
        return []
    noted = model.get_rt_info(entry).value
    try:
        names = json.loads(noted)
    except (ValueError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the exported model's category names are damaged ({noted!r:.60}); export or copy it again.")
    return names


def recognised_category(model: ov.Model) -> ov.Output:
    """Find the tensor of the recognised category inside a model."""
    outputs = (output for operation in model.get_ops() for output in operation.outputs())
    return next(output for output in outputs if CATEGORY in output.get_names())


def show_category(model: ov.Model) -> ov.Model:
    """Copy a model and make the category that it recognises its last output."""
    model = model.clone()
    recognised = recognised_category(model)
    recognised.get_tensor().set_names({CATEGORY})
    model.add_outputs(recognised)
    return model


def tell_category(model: ov.Model) -> ov.Model:
    """Copy a model and make the category its second input, int64 indices of shape ``(B,)``, instead of recognising."""
    model = model.clone()
    recognised = recognised_category(model)
    recognised.get_tensor().set_names(set())
    told = opset13.parameter([-1], recognised.get_element_type(), name=CATEGORY)
    told.output(0).get_tensor().set_names({CATEGORY})
    for consumer in recognised.get_target_inputs():
        consumer.replace_source_output(told.output(0))
    model.add_parameters([told])
    model.validate_nodes_and_infer_types()
    return model
