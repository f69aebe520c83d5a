# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Between the authors' checkpoint files and ours."""

from .keys import from_authors_key, to_authors_key

__all__ = ["from_authors_key", "to_authors_key"]
