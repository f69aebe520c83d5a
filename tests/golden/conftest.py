# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Golden tensors, and the comparison that notes every deviation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers import DEVIATION

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """Load a file of golden tensors."""
    return lambda name: load_file(DATA / f"{name}.safetensors")


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare with a golden tensor and note the deviation relative to the tensor's largest absolute value."""

    def compare(stage: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
        assert actual.shape == expected.shape, stage
        scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        deviation = float((actual.detach().double() - expected.double()).abs().max() / scale)
        request.node.user_properties.append((DEVIATION, f"{stage}\t{deviation:.1e}\t{tolerance:.0e}"))
        assert deviation <= tolerance, f"{stage} deviates by {deviation:.2e} of its largest value"

    return compare
