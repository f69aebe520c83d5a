# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import NumpyImageBatch
from PIL import Image

from anomalib_grad.data.read_or_refuse import UnreadableImageError
from anomalib_grad.deploy.maps_at_size import at_size


def prediction(shape: tuple[int, ...] = (2, 8, 8)) -> NumpyImageBatch:
    """A batch of two whose upper left quarter is anomalous."""
    anomaly_map = np.zeros((2, 8, 8), dtype=np.float32)
    anomaly_map[:, :4, :4] = 1
    scores = np.array([0.9, 0.8], dtype=np.float32)
    return NumpyImageBatch(
        image=np.zeros((2, 8, 8, 3), dtype=np.float32),
        pred_score=scores,
        anomaly_map=anomaly_map.reshape(shape),
        pred_mask=anomaly_map.reshape(shape) > 0.5,
    )


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 1, 8, 8)])  # the second is what exported models give
def test_map_and_mask_get_the_size_of_the_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    wide = Image.new("RGB", (700, 400))
    wide.save(tmp_path / "wide.png")
    small = prediction(shape)
    frames = (wide, np.asarray(wide), np.asarray(wide)[..., 0], torch.zeros(3, 400, 700), torch.zeros(1, 400, 700))
    for size in (tmp_path / "wide.png", str(tmp_path / "wide.png"), (400, 700), *frames):
        large = at_size(small, size)
        assert large.anomaly_map.shape == large.pred_mask.shape == (2, 400, 700)
        assert (large.anomaly_map.dtype, large.pred_mask.dtype) == (np.float32, bool)
        assert large.pred_mask[:, :200, :350].all()
        assert large.pred_mask.sum() == 2 * 200 * 350
        assert (large.anomaly_map[:, :150, :250] == 1).all()
        assert (large.anomaly_map[:, 250:, 450:] == 0).all()
        assert large.pred_score is not None
    assert small.anomaly_map.shape == shape


def test_what_is_not_there_stays_so() -> None:
    bare = NumpyImageBatch(image=np.zeros((1, 8, 8, 3), dtype=np.float32), pred_score=np.array([0.9]))
    assert at_size(bare, (20, 30)).anomaly_map is None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"gone\.png"):
        at_size(prediction(), tmp_path / "gone.png")
