# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""examples/study: what it refuses, so that no row of other data or weights gets into a table."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples/study"


def study(*given: str) -> str:
    """Run the example, which must fail, and return its last line."""
    command = [sys.executable, str(FOLDER), "--backbone", "grad_tiny", "--only", "plus", "--seeds", "0", *given]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode
    return result.stderr.splitlines()[-1]


def test_a_missing_folder_is_named_in_one_sentence() -> None:
    assert study("--root", "nowhere").startswith("error: there is no folder nowhere; give the folder")


def test_rows_of_other_data_are_not_taken(shop: Path, tmp_path: Path) -> None:
    row = tmp_path / f"{shop.name}_plus_grad_tiny_0.json"
    row.write_text(json.dumps({"conditions": {"root": "/elsewhere/shop", "weights": None}, "rows": {"plus": {}}}))
    assert "was computed on other data or weights: give those, or another --out" in study(
        "--root", str(shop), "--out", str(tmp_path)
    )
