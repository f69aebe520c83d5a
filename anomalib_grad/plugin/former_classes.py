# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Classes that older torch exports hold an object of, which nothing uses any more."""


class CategoryFeatures:
    """What a model once kept to learn its categories from."""
