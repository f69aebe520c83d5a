# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Storage of results that take long to compute."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib_grad.files.atomic import write_text


def load_or_compute(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a finished row, or compute and store it.

    Raises:
        ValueError: If the file holds something else.
    """
    if not path.exists():
        write_text(path, json.dumps(make(), indent=2))
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a finished row: remove it to compute it again") from error


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, which tells whether a row was computed with the same weights."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
