# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A results folder that cannot be made: anomalib makes it before any code of a model runs, and gives a bare error."""

import sys
from functools import wraps
from importlib import import_module
from pathlib import Path

from anomalib_grad.files.atomic import cannot_write, is_of_disk

MAKER = "create_versioned_dir"


def name_unwritable() -> None:
    """Have anomalib's engine name the folder and the setting where it cannot make the folder of a run's results."""
    paths = import_module("anomalib.utils.path")
    make = getattr(paths, MAKER, None)
    if make is None or make.__module__ == __name__:
        return

    @wraps(make, assigned=("__name__", "__qualname__", "__doc__"))
    def create_versioned_dir(root_dir: str | Path) -> Path:
        try:
            return Path(make(root_dir))
        except OSError as error:
            if not is_of_disk(error):
                raise
            raise cannot_write(Path(root_dir).absolute(), error, setting="default_root_dir") from error

    for module in (paths, sys.modules.get("anomalib.engine.engine")):  # the engine holds it where it is imported first
        if hasattr(module, MAKER):
            setattr(module, MAKER, create_versioned_dir)
