# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The check sum of an exported model, noted in its own metadata.

OpenVINO reads files unchecked, and a changed bit in one can make every defect pass.
"""

import re
import zlib
from pathlib import Path

SEAL = "anomalib_grad_crc32"
"""In ONNX files, whose entries OpenVINO copies when it converts one."""
XML_SEAL = "anomalib_grad_files_crc32"
_XML_START = b"<"
_END = b"</rt_info>"
_LINE = re.compile(rb'\t<%b value="([0-9a-f]{8})(?:-(\d+))?" />\n\t' % XML_SEAL.encode())
"""Check sum, and of how many bytes of weights it is: those of all where it does not say."""


def check_sum(*files: bytes) -> str:
    """Check sum of the contents of files, one after the other."""
    crc = 0
    for content in files:
        crc = zlib.crc32(content, crc)
    return f"{crc:08x}"


def files_of(model: Path) -> list[Path]:
    """List the files of an exported .onnx, .xml or .bin, which need not be there: behind it weights that are apart."""
    if model.suffix != ".onnx":
        return [model.with_suffix(".xml"), model.with_suffix(".bin")]
    weights = model.with_name(f"{model.name}.data")  # torch's name; one of an older export may lie there as well
    apart = model.is_file() and weights.name.encode() in model.read_bytes()
    return [model, weights] if apart else [model]


def present(model: Path) -> list[Path]:
    """List the files of an exported model; a FileNotFoundError names the first that is not there."""
    files = files_of(model)
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no exported model at {model}: {file} is missing; export or copy it.")
    return files


def seal(model: Path) -> None:
    """Note the check sum of the files of an exported model in its own metadata."""
    content, *weights = (file.read_bytes() for file in files_of(model))
    model.write_bytes(sealed(content, *weights))


def sealed(model: bytes, *weights: bytes) -> bytes:
    """Note the check sum of files in the metadata of the first, in the place of an older one.

    Args:
        model: Content of an .onnx or .xml file.
        weights: Content of the file of its weights, if it has them apart. An .xml file stays intact when more is
            appended to that.
    """
    content = unsealed(model)
    noted = check_sum(content, *weights)
    if not content.startswith(_XML_START):
        return content + _entry(noted)
    before, end, after = content.rpartition(_END)
    noted += f"-{len(weights[0])}"
    return before + f'\t<{XML_SEAL} value="{noted}" />\n\t'.encode() + end + after


def unsealed(model: bytes) -> bytes:
    """Content of an .onnx or .xml file without its seal, if it has one."""
    if model.startswith(_XML_START):
        return _LINE.sub(b"", model)
    end = len(model) - len(_entry(check_sum()))
    return model[:end] if SEAL.encode() in model[end:] else model


def is_intact(model: bytes, *weights: bytes) -> bool:
    """Tell whether files are what was sealed; without a seal they may be anything."""
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
    """Metadata in the form that, behind a whole ONNX file, is a part of it."""
    import onnx  # noqa: PLC0415  # heavy

    entry = onnx.StringStringEntryProto(key=SEAL, value=value)
    content: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content
