# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Golden tensors and the table of deviations that the suite prints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parent / "data"
DEVIATION = "golden deviation"


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the largest deviation of every stage."""
    rows = [
        value.split("\t")
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == DEVIATION and report.when == "call"
    ]
    if rows:
        terminalreporter.section("deviation from the authors' code, relative to the largest value")
        for stage, deviation, tolerance in rows:
            terminalreporter.write_line(f"{stage:<48} {deviation:>8}   (allowed {tolerance})")
