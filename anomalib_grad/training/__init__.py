# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Training: loss, learning rates, length, precision, extension by new products, and messages at the end of a run."""
