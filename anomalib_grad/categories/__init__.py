# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which product an image shows: told, named or recognised. Knows neither thresholds nor exports."""
