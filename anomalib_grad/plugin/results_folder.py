# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a run's results, which anomalib makes before any code of a model runs, with bare errors."""

import logging
import sys
from functools import wraps
from importlib import import_module
from pathlib import Path

from anomalib_grad.files.atomic import cannot_write, is_disk_error

logger = logging.getLogger(__name__)

MAKER = "create_versioned_dir"
LINK = "latest"


def explain_faults() -> None:
    """Have anomalib's engine name a results folder that cannot be made, and the setting, and do without its link."""
    paths = import_module("anomalib.utils.path")
    make = getattr(paths, MAKER, None)
    if make is None or make.__module__ == __name__:
        return

    @wraps(make, assigned=("__name__", "__qualname__", "__doc__"))
    def create_versioned_dir(root_dir: str | Path) -> Path:
        root = Path(root_dir).absolute()
        try:
            return Path(make(root))
        except OSError as error:
            link = error.filename2 or error.filename
            if is_disk_error(error) or not link or Path(link).name != LINK:
                raise cannot_write(root, error, setting="default_root_dir") from error
            newest = max(root.glob("v*"), key=lambda path: int(path.name[1:]) if path.name[1:].isdigit() else -1)
            logger.warning("%s cannot link to %s (%s); results are there.", link, newest, error.strerror)
            return newest.resolve()

    for module in (paths, sys.modules.get("anomalib.engine.engine")):  # the engine holds it where it is imported first
        if hasattr(module, MAKER):
            setattr(module, MAKER, create_versioned_dir)
