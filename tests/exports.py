# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Several exports of one model by one trace of it, which takes longer than all that follows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_grad.lightning_model import Grad


@contextmanager
def traced(model: Grad, onnx: Path) -> Iterator[Grad]:
    """Have a model that has not changed since exported to OpenVINO from its ONNX file."""
    vars(model)["to_onnx"] = lambda *_, **__: onnx
    try:
        yield model
    finally:
        del model.to_onnx


@contextmanager
def one_trace() -> Iterator[None]:
    """Have exports to ONNX that differ only in how the file is written made from the trace of the first."""
    traces: list[torch.onnx.ONNXProgram] = []
    trace = torch.onnx.export

    def export(f: str, external_data: bool, **options: Any) -> None:
        if not traces:
            traces.append(trace(**options))
        traces[0].save(f, external_data=external_data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        yield


def to_both(model: Grad, root: Path, **options: Any) -> dict[str, Path]:
    """Export to ONNX, and to OpenVINO from that."""
    onnx = model.to_onnx(root, **options)
    with traced(model, onnx):
        return {"onnx": onnx, "openvino": model.to_openvino(root, **options)}
