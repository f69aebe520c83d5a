# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Whitened features have one variance in all directions, and what has none does no harm."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_grad.components.whitening import SHRINKAGE, Whitening


def correlated(images: int = 8, channels: int = 6, seed: int = 0) -> torch.Tensor:
    """Features whose channels differ a thousandfold in size and follow each other."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) * torch.logspace(-2, 1, channels)[:, None]
    noise = torch.randn(images, channels, 12, 12, generator=generator)
    return torch.einsum("dc,bchw->bdhw", mixing, noise) + 5


def fitted(features: torch.Tensor) -> Whitening:
    whitening = Whitening(features.shape[1])
    whitening.fit(features.split(3))
    return whitening


def test_directions_of_large_variance_get_variance_one():
    features = correlated()
    cells = fitted(features)(features).transpose(0, 1).flatten(1).double()
    assert cells.mean(dim=1).abs().max() < 1e-4
    variances = torch.linalg.eigvalsh(cells.cov())
    assert variances.max() == pytest.approx(1, abs=0.05)


def test_shrinkage_leaves_small_variance_small():
    features = correlated()
    raw = torch.linalg.eigvalsh(features.transpose(0, 1).flatten(1).double().cov(correction=0))
    whitened = torch.linalg.eigvalsh(fitted(features)(features).transpose(0, 1).flatten(1).double().cov(correction=0))
    assert torch.allclose(whitened, raw / (raw + SHRINKAGE * raw.mean()), atol=1e-3)


def test_order_of_batches_does_not_matter():
    features = correlated()
    backwards = Whitening(6)
    backwards.fit(features.flip(0).split(5))
    assert torch.allclose(backwards(features), fitted(features)(features), atol=1e-4)


def test_it_knows_how_many_images_it_saw():
    assert Whitening(6).images == 0
    assert fitted(correlated(images=7)).images == 7


@settings(deadline=None, max_examples=20)
@given(st.floats(-1e3, 1e3, width=32), st.integers(1, 3))
def test_constant_images_are_finite(value: float, images: int):
    features = torch.full((images, 4, 5, 5), value)
    assert fitted(features)(features).isfinite().all()


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="whitening is fitted to training images, but there are none"):
        Whitening(4).fit([])


def test_before_the_fit_features_pass_unchanged():
    features = correlated()
    assert torch.equal(Whitening(6)(features), features)


def test_float32_under_autocast():
    features = correlated()
    whitening = fitted(features)
    expected = whitening(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whitening(features), expected)
    assert whitening(features.bfloat16()).dtype == torch.float32
