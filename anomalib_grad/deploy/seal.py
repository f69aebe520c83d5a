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
_LINE = re.compile(rb'\t<%b value="([0-9a-f]{8})" />\n\t' % XML_SEAL.encode())


def check_sum(*files: bytes) -> str:
    """Check sum of the contents of files, one after the other."""
    crc = 0
    for content in files:
        crc = zlib.crc32(content, crc)
    return f"{crc:08x}"


def files_of(model: Path) -> list[Path]:
    """List the files of an exported model: the .onnx or .xml file, and that of the weights if it has them apart.

    Args:
        model: The .onnx, .xml or .bin file, which need not be there.
    """
    if model.suffix != ".onnx":
        return [model.with_suffix(".xml"), model.with_suffix(".bin")]
    weights = model.with_name(f"{model.name}.data")  # torch's name; one of an older export may lie there as well
    apart = model.is_file() and weights.name.encode() in model.read_bytes()
    return [model, weights] if apart else [model]


def seal(model: Path) -> None:
    """Note the check sum of the files of an exported model in its own metadata."""
    content, *weights = (file.read_bytes() for file in files_of(model))
    noted = check_sum(content, *weights)
    if model.suffix == ".onnx":
        model.write_bytes(content + _entry(noted))
        return
    before, end, after = content.rpartition(_END)
    model.write_bytes(before + f'\t<{XML_SEAL} value="{noted}" />\n\t'.encode() + end + after)


def is_intact(model: bytes, *weights: bytes) -> bool:
    """Tell whether files are what was sealed; without a seal they may be anything.

    Args:
        model: Content of an .onnx or .xml file.
        weights: Content of the file of its weights, if it has them apart.
    """
    if not model.startswith(_XML_START):
        end = len(model) - len(_entry(check_sum()))
        return SEAL.encode() not in model or model[end:] == _entry(check_sum(model[:end], *weights))
    noted = _LINE.search(model)
    if noted is None:
        return XML_SEAL.encode() not in model
    unsealed = model[: noted.start()] + model[noted.end() :]
    return check_sum(unsealed, *weights) == noted[1].decode()


def _entry(value: str) -> bytes:
    """Metadata in the form that, behind a whole ONNX file, is a part of it."""
    import onnx  # noqa: PLC0415  # heavy

    entry = onnx.StringStringEntryProto(key=SEAL, value=value)
    content: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content
