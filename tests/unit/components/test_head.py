# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The head as a whole: published sizes, what is trained at which rate, and that it learns in any dimension."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from anomalib_grad.components.head import GradHead
from anomalib_grad.components.representation import FUSIONS


@pytest.mark.parametrize(("fusion", "millions"), [("residual", 26.4), ("mobile", 15.4), ("small", 5.3)])
def test_published_number_of_parameters(fusion, millions):
    with torch.device("meta"):
        head = GradHead(216, (28, 28), fusion)
    count = sum(parameter.numel() for parameter in head.parameters())
    assert round(count / 1e6, 1) == millions


def test_every_parameter_is_either_of_a_grid_or_of_a_network():
    head = GradHead(6, (4, 5), "small", num_blocks=1)
    grids, networks = head.grid_parameters(), head.network_parameters()
    assert sorted(map(id, grids + networks)) == sorted(map(id, head.parameters()))
    assert [tuple(grid.shape) for grid in grids] == [(1, 6, 8, 8), (1, 6 * 4 * 5, 4, 4)]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_initial_values(fusion):
    torch.manual_seed(0)
    head = GradHead(64, (4, 4), fusion, num_blocks=2)
    for module in head.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module.weight.numel() > 500:
                assert module.weight.std().item() == pytest.approx(0.01, rel=0.1)
            assert module.weight.abs().max() < 0.07
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_coordinates_of_any_dimension_learn(dims):
    """A few steps lower the loss, and the gradient reaches both grids and both coordinate networks."""
    torch.manual_seed(0)
    features = torch.randn(4, 6, 4, 5)
    head = GradHead(
        6, (4, 5), "small", num_blocks=1, local_dims=dims, local_resolution=3, global_dims=dims, global_resolution=2
    )
    optimizer = torch.optim.AdamW(
        [{"params": head.network_parameters(), "lr": 1e-2}, {"params": head.grid_parameters(), "lr": 0.1}]
    )
    losses = []
    for _ in range(8):
        loss = functional.mse_loss(head(features).refined, features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for part in (head.local_representation, head.global_representation):
        for name, parameter in part.named_parameters():
            assert parameter.grad.any(), name


def test_the_threshold_is_stored_with_the_weights():
    head = GradHead(4, (2, 2), num_blocks=0, mse_threshold=3.5)
    assert head.state_dict()["mse_threshold"].item() == 3.5
    assert "mse_threshold" not in dict(head.named_parameters())


def test_weights_of_the_similarity_are_used():
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 3)
    identity = GradHead(4, (3, 3), num_blocks=0, indicator_weight=1.0, cosine_weight=0.0, mse_threshold=1e9).eval()
    torch.testing.assert_close(identity(features).refined, features)  # S = 1 everywhere
    normal = GradHead(4, (3, 3), num_blocks=0, indicator_weight=1.0, cosine_weight=0.0, mse_threshold=1e-9).eval()
    f_n = normal.fusion(normal.global_representation(features), normal.local_representation(features))
    torch.testing.assert_close(normal(features).refined, f_n)  # S = 0 everywhere


def test_unknown_fusion_lists_those_that_exist():
    with pytest.raises(ValueError, match="residual, mobile, small"):
        GradHead(4, (2, 2), fusion="big")


def step(head: GradHead) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4)
    head.train()(torch.rand(2, 6, 4, 5)).refined.square().mean().backward()
    optimizer.step()


def copy_by_hand(head: GradHead) -> None:
    other = small_head()
    with torch.no_grad():
        for parameter, value in zip(head.parameters(), other.parameters(), strict=True):
            parameter.copy_(value)


def small_head() -> GradHead:
    return GradHead(6, (4, 5), "small", num_blocks=0)


@pytest.mark.parametrize(
    "change",
    [
        step,
        copy_by_hand,
        lambda head: head.load_state_dict(small_head().state_dict()),
        lambda head: head.load_state_dict(small_head().state_dict(), assign=True),
        lambda head: copy_by_hand(head.half()),
    ],
    ids=["trained", "set", "loaded", "assigned", "in half precision"],
)
def test_a_head_knows_whether_anyone_gave_it_weights(change):
    head = small_head()
    assert head.is_as_drawn()
    change(head)
    assert not head.is_as_drawn()


@pytest.mark.parametrize("harmless", [GradHead.half, GradHead.bfloat16, copy.deepcopy, GradHead.eval])
def test_weights_that_are_only_moved_are_still_those_of_the_beginning(harmless):
    assert harmless(small_head()).is_as_drawn()
