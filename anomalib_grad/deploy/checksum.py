# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checksum of an exported model, stored in the model's own metadata.

OpenVINO does not verify files when it reads them, and a single flipped bit can make every defect pass.
"""

import re
import zlib
from pathlib import Path

SEAL = "anomalib_grad_crc32"
"""Metadata key in ONNX files. The key for .xml differs, since OpenVINO copies ONNX metadata when it converts."""
XML_SEAL = "anomalib_grad_files_crc32"
_XML_START = b"<"
_END = b"</rt_info>"
_LINE = re.compile(rb'\t<%b value="([0-9a-f]{8})(?:-(\d+))?" />\n\t' % XML_SEAL.encode())
"""Checksum and the number of weight bytes that it covers; without a number, it covers all of them."""


def check_sum(*files: bytes) -> str:
    """Return the checksum (CRC-32, hexadecimal) of the concatenated contents of files."""
    crc = 0
    for content in files:
        crc = zlib.crc32(content, crc)
    return f"{crc:08x}"


def files_of(model: Path) -> list[Path]:
    """List the files of an exported .onnx, .xml or .bin, existing or not: the model, then its external weights."""
    if model.suffix != ".onnx":
        return [model.with_suffix(".xml"), model.with_suffix(".bin")]
    weights = model.with_name(f"{model.name}.data")  # torch's name; may be left over from an older export
    apart = model.is_file() and weights.name.encode() in model.read_bytes()
    return [model, weights] if apart else [model]


def existing_files(model: Path) -> list[Path]:
    """List the files of an exported model; raise a FileNotFoundError for the first missing one."""
    files = files_of(model)
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no exported model at {model}: {file} is missing; export or copy it.")
    return files


def seal(model: Path) -> None:
    """Write the checksum of an exported model's files into its own metadata."""
    content, *weights = (file.read_bytes() for file in files_of(model))
    model.write_bytes(sealed(content, *weights))


def sealed(model: bytes, *weights: bytes) -> bytes:
    """Return the content of a model file with the checksum of all its files in the metadata, replacing an older one.

    Args:
        model: Content of an .onnx or .xml file.
        weights: Content of the separate weights file, if there is one. Bytes appended to it later do not invalidate the
            checksum of an .xml file.
    """
    content = unsealed(model)
    noted = check_sum(content, *weights)
    if not content.startswith(_XML_START):
        return content + _entry(noted)
    before, end, after = content.rpartition(_END)
    noted += f"-{len(weights[0])}"
    return before + f'\t<{XML_SEAL} value="{noted}" />\n\t'.encode() + end + after


def unsealed(model: bytes) -> bytes:
    """Return the content of an .onnx or .xml file without its checksum, if it has one."""
    if model.startswith(_XML_START):
        return _LINE.sub(b"", model)
    end = len(model) - len(_entry(check_sum()))
    return model[:end] if SEAL.encode() in model[end:] else model


def is_intact(model: bytes, *weights: bytes) -> bool:
    """Return whether files match their checksum; files without one always pass."""
    content = unsealed(model)
    if not model.startswith(_XML_START):
        return SEAL.encode() not in model or model == content + _entry(check_sum(content, *weights))
    noted = _LINE.search(model)
    if noted is None:
        return XML_SEAL.encode() not in model
    if noted[2] is not None:
        weights = (weights[0][: int(noted[2])],)
    return check_sum(content, *weights) == noted[1].decode()


def _entry(value: str) -> bytes:
    """Serialise a metadata entry so that it becomes part of an ONNX file to which it is appended."""
    import onnx  # noqa: PLC0415  # heavy

    entry = onnx.StringStringEntryProto(key=SEAL, value=value)
    content: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content
