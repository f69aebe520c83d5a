# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Clear errors for a run's results folder, which anomalib makes before any code of a model runs."""

import logging
import sys
from functools import wraps
from importlib import import_module
from pathlib import Path

from anomalib_grad.files.atomic import cannot_write, is_disk_error

logger = logging.getLogger(__name__)

MAKER = "create_versioned_dir"
LINK = "latest"


def explain_folder_errors() -> None:
    """Make anomalib's engine name a results folder that it cannot make and the setting, and go on without its link."""
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
            logger.warning("Cannot link %s to %s (%s); the results are in %s.", link, newest, error.strerror, newest)
            return newest.resolve()

    for module in (paths, sys.modules.get("anomalib.engine.engine")):  # the engine has its own reference once imported
        if hasattr(module, MAKER):
            setattr(module, MAKER, create_versioned_dir)
