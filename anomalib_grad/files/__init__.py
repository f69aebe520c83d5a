# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""File handling: check files before use, write them whole or not at all, and name the file at fault in errors."""
