# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Storage of results that take long to compute."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib_grad.files.atomic import write_text


def load_or_compute(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a finished row, or compute and store it."""
    if not path.exists():
        write_text(path, json.dumps(make(), indent=2))
    return json.loads(path.read_text())
