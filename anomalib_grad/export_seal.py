# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The check sum of an OpenVINO model's weights, noted in the file that describes it.

OpenVINO reads weights unchecked, and a changed bit among them can make every defect pass.
"""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov

SEAL = "anomalib_grad_weights_crc32"
END = "</rt_info>"


def check_sum(weights: bytes) -> str:
    """Check sum of the content of a .bin file."""
    return f"{zlib.crc32(weights):08x}"


def seal(xml: Path) -> None:
    """Note the check sum of the .bin file beside a .xml file in the latter's metadata."""
    noted = check_sum(xml.with_suffix(".bin").read_bytes())
    before, end, after = xml.read_text(encoding="utf-8").rpartition(END)
    xml.write_text(f'{before}\t<{SEAL} value="{noted}" />\n\t{end}{after}', encoding="utf-8")


def is_intact(model: "ov.Model", weights: bytes | Path) -> bool:
    """Tell whether weights, or those in a file, are what a model was sealed with; one without a seal may have any."""
    if not model.has_rt_info(SEAL):
        return True
    content = weights.read_bytes() if isinstance(weights, Path) else weights
    return model.get_rt_info(SEAL).value == check_sum(content)
