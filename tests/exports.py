# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Several exports of one model by one trace of it, which takes longer than all that follows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalib_grad.lightning_model import Grad


@contextmanager
def traced(model: Grad, onnx: Path) -> Iterator[Grad]:
    """Have a model that has not changed since exported to OpenVINO from its ONNX file."""
    vars(model)["to_onnx"] = lambda *_, **__: onnx
    try:
        yield model
    finally:
        del model.to_onnx


def to_both(model: Grad, root: Path, **options: Any) -> dict[str, Path]:
    """Export to ONNX, and to OpenVINO from that."""
    onnx = model.to_onnx(root, **options)
    with traced(model, onnx):
        return {"onnx": onnx, "openvino": model.to_openvino(root, **options)}
