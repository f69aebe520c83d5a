# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation of the embedded backbone ``grad_tiny``; see README.md beside this file."""
