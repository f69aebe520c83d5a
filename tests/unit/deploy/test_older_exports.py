# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Exports of earlier versions judge as they did."""

import lzma
from pathlib import Path

import numpy as np
import pytest

from anomalib_grad.deploy import CategoryOpenVINOInferencer

OLD = Path(__file__).parent / "data/before_image_size.onnx.xz"
"""Written before exports noted their image size and reduced bands of rows; its weights repeat, so that it is small."""


def test_an_export_that_does_not_note_its_image_size_has_the_scores_that_it_had(tmp_path: Path) -> None:
    (tmp_path / "old.onnx").write_bytes(lzma.decompress(OLD.read_bytes()))
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    inferencer = CategoryOpenVINOInferencer(tmp_path / "old.onnx", device="CPU", config=exact)
    assert inferencer.image_size is None
    y, x = np.mgrid[0:150, 0:200]
    waves = [127 + 100 * np.sin(x / 7) * np.cos(y / 11), 127 + 90 * np.sin((x + y) / 13), 60 + 0.5 * x]
    frame = np.stack(waves, axis=-1).clip(0, 255).astype(np.uint8)
    for pixels, score in ((frame, 0.51051), (np.full_like(frame, 128), 0.49848)):
        prediction = inferencer.predict(pixels)
        assert prediction.pred_score.item() == pytest.approx(score, abs=1e-3)
        assert prediction.pred_label.item() == (score > 0.5)
        assert prediction.anomaly_map.shape[-2:] == (64, 64)
