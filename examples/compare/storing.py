# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Figures that took long are stored as they are found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def stored(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a finished row, or make and store it."""
    if not path.exists():
        row = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(row, indent=2))
        temporary.replace(path)
    return json.loads(path.read_text())
