# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The similarity's threshold: what the user may write, and its estimate from training features."""

import math

import pytest
import torch

from anomalib_grad.training.mse_threshold import AUTO_SHARE, estimate_mse_threshold, resolve_mse_threshold

AUTHORS = "tf_efficientnet_b4.aa_in1k"


@pytest.mark.parametrize(
    ("wanted", "backbone", "expected"),
    [
        (None, AUTHORS, 10.0),
        (None, "tf_efficientnet_b4", 10.0),
        (None, "resnet18", math.nan),
        (None, "tf_efficientnet_b4_other", math.nan),
        ("auto", AUTHORS, math.nan),
        (3, "resnet18", 3.0),
        (0.25, AUTHORS, 0.25),
    ],
)
def test_default_auto_and_numbers(wanted, backbone, expected):
    assert resolve_mse_threshold(wanted, backbone) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("wanted", [0, -1.0, "automatic", "10", math.inf, math.nan])
def test_anything_else_is_refused(wanted):
    with pytest.raises(ValueError, match="positive, finite number or 'auto'"):
        resolve_mse_threshold(wanted, AUTHORS)


def test_estimate_is_a_share_of_the_mean_square_over_all_images():
    batches = [torch.randn(3, 4, 2, 2), 5 * torch.randn(1, 4, 2, 2)]  # batches of unequal size weigh by image
    expected = 0.6 * torch.cat(batches).square().mean()
    estimate = estimate_mse_threshold(batches, share=0.6)
    assert estimate.shape == ()
    torch.testing.assert_close(estimate, expected)
    assert AUTO_SHARE == 0.6


def test_half_precision_features_do_not_overflow():
    features = torch.full((2, 3, 4, 4), 300.0, dtype=torch.float16)  # 300^2 is beyond float16
    assert estimate_mse_threshold([features], share=1.0).item() == pytest.approx(90000)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="needs training images"):
        estimate_mse_threshold([])
