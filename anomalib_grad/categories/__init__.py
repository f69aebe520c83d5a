# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Category of an image: set by the user, named by the data or recognised. Knows neither thresholds nor exports."""
