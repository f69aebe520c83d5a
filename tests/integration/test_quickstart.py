# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The README's first command: from nothing to an exported model, without any network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


def test_quickstart_shows_every_product_and_what_the_exported_model_makes_of_it(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, QUICKSTART], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]

    (results,) = tmp_path.glob("results/Grad/*/v0")
    rows = {row["category"]: row for row in json.loads((results / "per_category.json").read_text())}
    assert set(rows) == {"brick", "grass", "gravel", "plate", "mean"}
    assert rows["mean"]["image_AUROC"] >= 0.95
    assert "<html" in (results / "report.html").read_text()
    assert len(list((results / "images").rglob("*.png"))) == 160

    assert (results / "weights" / "openvino" / "model.xml").exists()
    for product in ("brick", "grass", "gravel", "plate"):
        assert f"{product}/good/000.png: recognised {product}, normal" in run.stdout
        assert product in run.stdout.split("4/4")[0], "the table names every product"
