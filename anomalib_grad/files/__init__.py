# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are looked at before they are used, and named when they are at fault."""
