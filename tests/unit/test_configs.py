# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The files in configs/ are ones that can be trained."""

from pathlib import Path

import pytest
import yaml

from anomalib_grad import Grad

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_file_builds_its_model(path: Path) -> None:
    model = yaml.safe_load(path.read_text())["model"]
    assert model["class_path"] == "Grad"
    assert Grad(**{**model["init_args"], "pre_trained": False}).recipe == model["init_args"]["recipe"]
