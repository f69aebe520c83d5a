# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Reading and replacing the thresholds of exported models.

One constant of the graph holds all thresholds and ranges, so that every inferencer uses them. The metadata records how
they were fitted. Replacing them changes nothing else. For an OpenVINO model, the new constant is appended to the
weights, with which the old .xml file still works, and then the .xml file is replaced. An interruption at any time
leaves an intact model.
"""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from anomalib_grad.files.atomic import writing
from anomalib_grad.thresholds.model_thresholds import ModelThresholds
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor

from .checksum import existing_files, files_of, is_intact, sealed, unsealed

TABLE = "post_processor.fixed_table"
"""Name of the constant in the graph: the name of the exported buffer."""
CATEGORIES_METADATA = "anomalib_grad_categories"
THRESHOLDS_METADATA = "anomalib_grad_thresholds"
_ALIGNMENT = 64
"""Alignment of OpenVINO's constants in bytes."""
_TYPES = {"f16": np.float16, "f32": np.float32}


class ExportFileError(ValueError):
    """An exported model is damaged, was changed by hand, or has no thresholds that can be replaced."""


def read_export(path: Path) -> ModelThresholds:
    """Read the thresholds of an exported model.

    Raises:
        FileNotFoundError: If the model or its weights are missing.
        ExportFileError: If it is damaged, was changed by hand, or does not store thresholds in this form.
    """
    try:
        file = _file_at(path)
        products, plain = (json.loads(file.noted(key)) for key in (CATEGORIES_METADATA, THRESHOLDS_METADATA))
        # A model without product names uses the last row.
        return ModelThresholds.from_plain(plain, products, file.table if products else file.table[-1:])
    except ExportFileError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise ExportFileError(
            f"the thresholds of the exported model {path} cannot be read or changed ({error}), for instance because an "
            "older version wrote it; export it again."
        ) from error


def write_export(path: Path, thresholds: ModelThresholds) -> None:
    """Replace the thresholds that were read from an exported model, and its checksum.

    Raises:
        ExportFileError: If the model has been damaged since.
        CannotWriteError: If the folder is not writable, or the disk is full; the model is then unchanged.
    """
    _file_at(path).write(thresholds)


def keep_exact(path: Path, post_processor: PerCategoryPostProcessor) -> None:
    """Restore the exact thresholds in an export if compression to half precision has rounded them."""
    exported = read_export(path)
    exact = ModelThresholds.of(post_processor, exported.products)
    if not np.array_equal(exported.table, exact.table, equal_nan=True):
        write_export(path, exact)


def _file_at(path: Path) -> "_OnnxFile | _OpenVINOFile":
    contents = [file.read_bytes() for file in existing_files(path)]
    damaged = ExportFileError(
        f"cannot use the exported model {path}: it is damaged, or was changed by hand; export or copy it again."
    )
    if not is_intact(*contents):
        raise damaged
    from google.protobuf.message import DecodeError  # noqa: PLC0415  # programs of other models do without

    try:
        return _OnnxFile(path, *contents) if path.suffix == ".onnx" else _OpenVINOFile(path, *contents)
    except (DecodeError, ElementTree.ParseError) as error:  # a truncated file has lost its checksum
        raise damaged from error


def replaced(table: np.ndarray, thresholds: ModelThresholds) -> np.ndarray:
    """Return the table with its last rows replaced by those of ``thresholds``, float32."""
    table = table.astype(np.float32)
    table[-len(thresholds.table) :] = thresholds.table
    return table


class _OnnxFile:
    """An ONNX file, with its weights inside or in a second file."""

    def __init__(self, path: Path, content: bytes, *weights: bytes) -> None:
        import onnx  # noqa: PLC0415  # heavy

        self.path, self.weights = path, weights
        self.model: onnx.ModelProto = onnx.load_from_string(unsealed(content))
        self.metadata = {entry.key: entry for entry in self.model.metadata_props}
        self.constant = {one.name: one for one in self.model.graph.initializer}[TABLE]
        self.table: np.ndarray = onnx.numpy_helper.to_array(self.constant).astype(np.float64)

    def noted(self, key: str) -> str:
        return self.metadata[key].value

    def write(self, thresholds: ModelThresholds) -> None:
        import onnx  # noqa: PLC0415  # heavy

        self.constant.CopyFrom(onnx.numpy_helper.from_array(replaced(self.table, thresholds), TABLE))
        self.metadata[THRESHOLDS_METADATA].value = json.dumps(thresholds.to_plain())
        with writing(self.path) as unfinished:
            unfinished.write_bytes(sealed(self.model.SerializeToString(), *self.weights))


class _OpenVINOFile:
    """An .xml file and its weights."""

    def __init__(self, path: Path, content: bytes, weights: bytes) -> None:
        self.path, self.weights = path, weights
        self.root = ElementTree.fromstring(unsealed(content))  # noqa: S314  # sealed by this package
        self.metadata = {entry.tag: entry for entry in self.root.iterfind("rt_info/framework/*")}
        layers = {layer.attrib["name"]: layer for layer in self.root.iterfind("layers/layer[@type='Const']")}
        self.layer = layers[TABLE if TABLE in layers else f"{TABLE}_compressed"]
        (self.constant,) = self.layer.iterfind("data")

    @property
    def table(self) -> np.ndarray:
        shape = [int(length) for length in self.constant.attrib["shape"].split(",")]
        kind = np.dtype(_TYPES[self.constant.attrib["element_type"]])
        start, size = int(self.constant.attrib["offset"]), int(self.constant.attrib["size"])
        return np.frombuffer(self.weights[start : start + size], kind).reshape(shape).astype(np.float64)

    def noted(self, key: str) -> str:
        return self.metadata[key].attrib["value"]

    def write(self, thresholds: ModelThresholds) -> None:
        values = replaced(self.table, thresholds).tobytes()
        start = -(-len(self.weights) // _ALIGNMENT) * _ALIGNMENT
        weights = self.weights.ljust(start, b"\0") + values
        self.constant.attrib.update(offset=str(start), size=str(len(values)), element_type="f32")
        for port in self.layer.iterfind("output/port"):
            port.set("precision", "FP32")  # FP16 before, if weights were compressed
        self.metadata[THRESHOLDS_METADATA].set("value", json.dumps(thresholds.to_plain()))
        content = sealed(ElementTree.tostring(self.root), weights)
        with writing(files_of(self.path)[1]) as unfinished:
            unfinished.write_bytes(weights)
        with writing(self.path) as unfinished:
            unfinished.write_bytes(content)
