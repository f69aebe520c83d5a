# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Feature refinement: the similarity written out for one pixel, its limits and where gradient flows."""

import math

import pytest
import torch

from anomalib_grad.components.head import refine, similarity


def maps(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return features, features + 0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_every_pixel_by_hand():
    features, normal = maps(2, 5, 3, 4)
    k = 0.25
    computed = similarity(features, normal, k)
    assert computed.shape == (2, 1, 3, 4)
    decisions = set()
    for b in range(2):
        for row in range(3):
            for column in range(4):
                x, n = features[b, :, row, column].tolist(), normal[b, :, row, column].tolist()
                mse = sum((p - q) ** 2 for p, q in zip(x, n, strict=True)) / 5
                cosine = sum(p * q for p, q in zip(x, n, strict=True)) / (math.hypot(*x) * math.hypot(*n))
                decisions.add(mse <= k)
                assert computed[b, 0, row, column].item() == pytest.approx(0.3 * (mse <= k) + 0.7 * cosine)
    assert decisions == {True, False}, "the example must have pixels on both sides of k"


def test_the_threshold_itself_counts_as_alike():
    features, normal = torch.zeros(1, 4, 1, 1), torch.full((1, 4, 1, 1), 2.0)
    assert similarity(features, normal, 4.0, 1.0, 0.0).item() == 1
    assert similarity(features, normal, torch.tensor(3.999), 1.0, 0.0).item() == 0


def test_equal_maps_are_taken_over_and_opposite_ones_are_pushed_away():
    features, _ = maps(1, 5, 2, 2)
    torch.testing.assert_close(similarity(features, features, 10.0), torch.ones(1, 1, 2, 2).double())
    opposite = similarity(features, -features, 0.0)
    torch.testing.assert_close(opposite, torch.full((1, 1, 2, 2), -0.7).double())  # not clamped
    torch.testing.assert_close(refine(features, -features, opposite), -0.7 * features + 1.7 * -features)


def test_similarity_is_not_detached():
    """The gradient of x_hat holds the part that flows through S; it is checked against finite differences."""
    features, normal = maps(1, 3, 2, 2)
    normal.requires_grad_()
    assert torch.autograd.gradcheck(lambda n: refine(features, n, similarity(features, n, 0.25)), (normal,))
    attached = refine(features, normal, similarity(features, normal, 0.25)).square().sum()
    detached = refine(features, normal, similarity(features, normal, 0.25).detach()).square().sum()
    gradient, without = (torch.autograd.grad(loss, normal)[0] for loss in (attached, detached))
    assert (gradient - without).norm() > 0.1 * gradient.norm()


def test_no_gradient_flows_through_the_indicator():
    features, normal = maps(1, 3, 2, 2)
    normal.requires_grad_()
    gradient = torch.autograd.grad(similarity(features, normal, 0.25, 1.0, 0.0).sum(), normal)[0]
    assert gradient.count_nonzero() == 0
