# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Images that a model file scores."""

from pathlib import Path

import pytest

from anomalib_grad.adjustment.model_files import ModelFile, score_images


def test_an_image_that_is_called_both_normal_and_anomalous_is_refused_before_it_is_scored(tmp_path: Path) -> None:
    unused: ModelFile = None  # type: ignore[assignment]  # nothing is scored
    given = [(tmp_path / "good" / "a.png", False), (tmp_path / "bad" / ".." / "good" / "a.png", True)]
    with pytest.raises(ValueError, match=r"a\.png is given as normal and as anomalous, so nothing was changed"):
        score_images(unused, given, "nut", progress=False)
