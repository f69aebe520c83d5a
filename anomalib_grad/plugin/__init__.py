# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Registration with anomalib: GRAD and its datamodules under anomalib's own names."""

from .registration import RegistrationError, register

__all__ = ["RegistrationError", "register"]
