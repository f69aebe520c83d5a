# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How a model is trained: loss, rates, length, precision, and what a run says when it ends."""
