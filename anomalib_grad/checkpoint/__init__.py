# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion between the authors' checkpoints and this package's: ``python -m anomalib_grad.checkpoint --help``.

The same in Python: :func:`~anomalib_grad.checkpoint.from_authors.convert` and
:func:`~anomalib_grad.checkpoint.to_authors.to_authors`.
"""
