# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Patches of other images, and the mean that hard cells rule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from anomalib_grad import Grad
from anomalib_grad.components.corruption import Corruption, draw_spans, paste_patches
from anomalib_grad.training.loss import hard_mean, training_loss

SIDES = st.integers(1, 9)


@given(batch=st.integers(1, 4), height=SIDES, width=SIDES, most=st.integers(0, 3), seed=st.integers(0, 99))
def test_pasting_keeps_the_shape_and_stays_between_the_values_there_are(
    batch: int, height: int, width: int, most: int, seed: int
) -> None:
    torch.manual_seed(seed)
    features = torch.rand(batch, 2, height, width)
    pasted = paste_patches(features, most)
    assert pasted.shape == features.shape
    assert features.min() <= pasted.min()
    assert pasted.max() <= features.max()


def test_patches_cover_a_part_of_most_images_and_leave_the_given_features_alone() -> None:
    torch.manual_seed(0)
    features = torch.rand(64, 2, 14, 14)
    before = features.clone()
    covered = (paste_patches(features, 3) != features).any(dim=1)  # (B, H, W)
    assert torch.equal(features, before)
    share_of_images = covered.flatten(1).any(dim=1).float().mean().item()
    assert 0.5 < share_of_images < 1  # a quarter draws no patch
    assert covered.flatten(1).float().mean(dim=1).max() <= 3 * (4 / 14) ** 2


def test_no_patches_change_nothing() -> None:
    features = torch.rand(2, 3, 4, 4)
    assert torch.equal(paste_patches(features, 0), features)


@given(side=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_span_is_one_piece_no_longer_than_allowed(side: int, seed: int) -> None:
    torch.manual_seed(seed)
    for span in draw_spans(8, side).int():
        assert 1 <= span.sum() <= max(round(2 * side / 7), 1)
        assert functional.pad(span, (1, 1)).diff().abs().sum() == 2


def test_spans_reach_both_ends() -> None:
    torch.manual_seed(0)
    assert draw_spans(100, 7).any(dim=0).all()


def test_patches_come_from_other_places_of_other_images_and_half_of_them_replace_what_they_cover() -> None:
    torch.manual_seed(0)
    features = torch.arange(256.0 * 14 * 14).view(256, 1, 14, 14)  # a value tells image and place
    pasted = paste_patches(features, 1)
    changed = pasted != features
    from_elsewhere = changed & (pasted == pasted.round())  # blends have a fraction
    replaced = from_elsewhere.flatten(1).any(dim=1).sum() / changed.flatten(1).any(dim=1).sum()
    assert 0.35 < replaced < 0.65
    apart = (pasted - features)[from_elsewhere]
    assert (apart.abs() >= 14 * 14).float().mean() > 0.9
    assert (apart % (14 * 14) != 0).float().mean() > 0.9


def test_channels_are_dropped_as_a_whole() -> None:
    torch.manual_seed(0)
    dropped = Corruption(0, 0.5)(torch.ones(4, 16, 3, 3))
    assert set(dropped.unique().tolist()) == {0, 2}
    assert torch.equal(dropped.amin(dim=(2, 3)), dropped.amax(dim=(2, 3)))


def test_hard_cells_rule_the_mean_and_only_the_errors_have_a_gradient() -> None:
    errors = torch.tensor([0.01, 0.01, 1.0], requires_grad=True)
    mean = hard_mean(errors)
    assert mean.item() == pytest.approx((2 * 0.001 + 1) / 1.2)  # weights 0.1, 0.1 and 1
    mean.backward()
    torch.testing.assert_close(errors.grad, torch.tensor([0.1, 0.1, 1.0]) / 1.2)
    assert hard_mean(torch.full((4,), 0.25)).item() == pytest.approx(0.25)


def test_the_mean_of_no_error_is_zero() -> None:
    assert hard_mean(torch.zeros(3)).item() == 0


TINY = {"backbone": "grad_tiny", "pre_trained": False, "image_size": (64, 64), "fusion": "small"}
EXACT = {"num_blocks": 1, "jitter_probability": 0.0, "mse_threshold": 1.0}


def loss_of(model: Grad, features: torch.Tensor) -> torch.Tensor:
    return training_loss(*model.model(features=features), hard_mining=bool(model.settings.training.hard_mining))


def test_the_published_loss_is_the_default() -> None:
    torch.manual_seed(0)
    model = Grad(**TINY, method=EXACT).train()
    features = torch.rand(2, model.model.backbone.channels, 8, 8)
    expected = functional.mse_loss(model.model.head(features).refined, features)
    torch.testing.assert_close(loss_of(model, features), expected)


@pytest.mark.parametrize("changed", [{"pasted_patches": 3}, {"channel_dropout": 0.5}, {"hard_mining": True}])
def test_what_is_restored_has_another_loss_that_trains_the_whole_head(changed: dict[str, float]) -> None:
    torch.manual_seed(0)
    model = Grad(**TINY, method=EXACT, training=changed).train()
    features = torch.rand(2, model.model.backbone.channels, 8, 8)
    loss = loss_of(model, features)
    assert loss.item() != functional.mse_loss(model.model.head(features).refined, features).item()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.head.parameters())
    assert model.model.head.local_representation.grid.cells.grad.abs().sum() > 0
