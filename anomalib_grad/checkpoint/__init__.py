# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion between the authors' checkpoints and this package's: ``python -m anomalib_grad.checkpoint --help``.

The same in Python: :func:`~anomalib_grad.checkpoint.from_authors.convert` and
:func:`~anomalib_grad.checkpoint.to_authors.to_authors`. Import them from their modules, since they need anomalib.
"""

from .authors_file import AuthorsCheckpointError, AuthorsFile, read_authors_file
from .authors_model import load_authors_head
from .keys import from_authors_key, to_authors_key

__all__ = [
    "AuthorsCheckpointError",
    "AuthorsFile",
    "from_authors_key",
    "load_authors_head",
    "read_authors_file",
    "to_authors_key",
]
