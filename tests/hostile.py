# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Makes files that ask for what a training never wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Call:
    """Is pickled as a call, with a state of its result if one is given."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.pickled = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.pickled


def change(whole: Path, path: Path, **entries: Any) -> None:
    """Write a checkpoint with some entries replaced or added; a dictionary is merged into the one there."""
    content = torch.load(whole, weights_only=True)
    for key, value in entries.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    torch.save(content, path)
