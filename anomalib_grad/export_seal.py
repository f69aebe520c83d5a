# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The check sum of an exported model, noted in its own metadata.

OpenVINO reads files unchecked, and a changed bit in one can make every defect pass.
"""

import re
import zlib
from pathlib import Path

import onnx

SEAL = "anomalib_grad_crc32"
"""In ONNX files, whose entries OpenVINO copies when it converts one."""
XML_SEAL = "anomalib_grad_files_crc32"
_END = b"</rt_info>"
_LINE = re.compile(rb'\t<%b value="([0-9a-f]{8})" />\n\t' % XML_SEAL.encode())


def check_sum(*files: bytes) -> str:
    """Check sum of the contents of files, one after the other."""
    crc = 0
    for content in files:
        crc = zlib.crc32(content, crc)
    return f"{crc:08x}"


def seal(model: Path) -> None:
    """Note the check sum of an .onnx file, or of an .xml file and the .bin file beside it, in the former's metadata."""
    content = model.read_bytes()
    if model.suffix == ".onnx":
        model.write_bytes(content + _entry(check_sum(content)))
        return
    noted = check_sum(content, model.with_suffix(".bin").read_bytes())
    before, end, after = content.rpartition(_END)
    model.write_bytes(before + f'\t<{XML_SEAL} value="{noted}" />\n\t'.encode() + end + after)


def is_intact(model: bytes, weights: bytes | None = None) -> bool:
    """Tell whether files are what was sealed; without a seal they may be anything.

    Args:
        model: Content of an .onnx file, or of an .xml file.
        weights: Content of the .bin file that belongs to the latter.
    """
    if weights is None:
        end = len(model) - len(_entry(check_sum()))
        return SEAL.encode() not in model or model[end:] == _entry(check_sum(model[:end]))
    noted = _LINE.search(model)
    if noted is None:
        return XML_SEAL.encode() not in model
    unsealed = model[: noted.start()] + model[noted.end() :]
    return check_sum(unsealed, weights) == noted[1].decode()


def _entry(value: str) -> bytes:
    """Metadata in the form that, behind a whole ONNX file, is a part of it."""
    entry = onnx.StringStringEntryProto(key=SEAL, value=value)
    content: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content
