# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A model to export, several exports by one trace of it, which takes longer than all that follows, and their use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from PIL import Image

from anomalib_grad.lightning_model import Grad
from helpers import as_if_trained, tiny

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
STATISTICS = {"threshold": 0.5, "min": 0.1, "max": 0.9}


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


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with structure at all scales, so that a resize without antialiasing would show."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    return (0.7 * np.asarray(coarse) + 0.3 * generator.integers(0, 255, (height, width, 3))).astype(np.uint8)


def know_two_categories(model: Grad) -> None:
    """Fit recogniser and statistics on dark and bright pictures, so that no score is clamped."""
    images = torch.stack([torch.as_tensor(picture(64, 64, seed)).permute(2, 0, 1) / 255 for seed in range(8)])
    images[4:] = 0.5 + images[4:] / 2
    model.eval()
    with torch.no_grad():
        features = model.model.backbone(model.pre_processor(images))
        raw = model.model(features=features)
    post_processor = model.post_processor
    post_processor.set_categories(["bright", "dark"])
    labels = torch.tensor([1] * 4 + [0] * 4)
    post_processor.recogniser.margin = 3.0
    post_processor.recogniser.fit(features.mean((2, 3)), labels, 2)
    for level, values in (("image", raw.pred_score), ("pixel", raw.anomaly_map)):
        low, high = 0.5 * values.min(), 1.5 * values.max()
        for name, share in STATISTICS.items():
            row = torch.stack([low + (high - low) * share * factor for factor in (1.0, 1.1)])
            getattr(post_processor, f"category_{level}_{name}").copy_(row)
            own = f"_{level}_{name}" if name == "threshold" else f"{level}_{name}"
            getattr(post_processor, own).copy_(row.mean())


def knows_two_categories() -> Grad:
    """A model with the backbone whose export takes the least time; ``test_export_backbones.py`` has others."""
    torch.manual_seed(0)
    model = as_if_trained(Grad(**tiny(backbone="grad_tiny")).eval())
    model.model.head.mse_threshold.fill_(0.1)
    know_two_categories(model)
    return model


def infer(path: Path, image: Path | np.ndarray | torch.Tensor):
    if path.suffix == ".pt":
        return TorchInferencer(path, device="cpu").predict(image)
    return OpenVINOInferencer(path, device="CPU", config=EXACT).predict(image)


def assert_same(exported, predicted, tolerance: float = 1e-3) -> None:
    score, anomaly_map = torch.as_tensor(exported.pred_score).reshape(-1), torch.as_tensor(exported.anomaly_map)
    assert (score - predicted.pred_score).abs().max() < tolerance
    assert (anomaly_map.reshape(len(score), -1) - predicted.anomaly_map.reshape(len(score), -1)).abs().max() < tolerance
    sure = (predicted.pred_score - 0.5).abs() > tolerance
    assert torch.equal(torch.as_tensor(exported.pred_label).reshape(-1)[sure], predicted.pred_label[sure])
