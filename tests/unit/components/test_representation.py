# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Local and global representation: shapes, order of pixels and images, jitter, memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from anomalib_grad.components.representation import GlobalRepresentation, LocalRepresentation, jitter_coordinates

FEATURES = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(0))


def spread(module: torch.nn.Module) -> torch.nn.Module:
    """Weights of order one, so that the coordinates fill [-1, 1]."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def test_local_equals_grid_sample_on_a_repeated_grid():
    local = spread(LocalRepresentation(6)).eval()
    coordinates = local.coordinates(FEATURES)  # (B, 2, H, W)
    assert coordinates.abs().max() <= 1
    assert coordinates.std() > 0.3
    repeated = local.grid.cells.repeat(3, 1, 1, 1)
    expected = functional.grid_sample(repeated, coordinates.permute(0, 2, 3, 1), align_corners=False)
    torch.testing.assert_close(local(FEATURES), expected)


def test_global_equals_grid_sample_on_a_repeated_grid():
    representation = spread(GlobalRepresentation(6, (4, 5))).eval()
    coordinates = representation.coordinates(FEATURES.mean(dim=(2, 3)))  # (B, 2)
    assert coordinates.shape == (3, 2)
    repeated = representation.grid.cells.repeat(3, 1, 1, 1)
    sampled = functional.grid_sample(repeated, coordinates.view(3, 1, 1, 2), align_corners=False)
    torch.testing.assert_close(representation(FEATURES), sampled.view(3, 6, 4, 5))


@given(resolution=st.lists(st.integers(1, 4), min_size=1, max_size=4), batch=st.integers(1, 3), size=st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_any_dimension_keeps_the_shape_and_the_images_apart(resolution, batch, size):
    features = torch.randn(batch, 3, size, size + 1)
    for representation in (
        LocalRepresentation(3, resolution, len(resolution)).eval(),
        GlobalRepresentation(3, (size, size + 1), resolution, len(resolution)).eval(),
    ):
        output = representation(features)
        assert output.shape == features.shape
        for index in range(batch):
            torch.testing.assert_close(output[index : index + 1], representation(features[index : index + 1]))


@pytest.mark.parametrize("batch", [2, 16])
def test_no_grid_is_copied_for_an_element_of_the_batch(batch):
    """Whatever autograd keeps of the global grid's size is the grid itself, whose size does not grow with the batch."""
    channels, size = 4, (6, 6)
    local = spread(LocalRepresentation(channels))
    representation = spread(GlobalRepresentation(channels, size))
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    features = torch.randn(batch, channels, *size)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        representation(features)
        biggest_global = max(kept)
        kept.clear()
        local(features)
        biggest_local = max(kept)
    assert biggest_global <= max(representation.grid.cells.numel(), features.numel())
    # interpolation weights, (B * H * W, 64), are what a local sample needs
    assert biggest_local <= max(local.grid.cells.numel(), batch * size[0] * size[1] * 64)


def test_jitter_is_for_training_alone():
    local = spread(LocalRepresentation(6, jitter_std=0.3, jitter_probability=1.0))
    torch.testing.assert_close(local.eval()(FEATURES), local.eval()(FEATURES), rtol=0, atol=0)
    still = local(FEATURES)
    assert not torch.allclose(local.train()(FEATURES), still)
    local.jitter_std = 0.0
    torch.testing.assert_close(local(FEATURES), still)


def test_one_coin_falls_for_the_whole_batch_with_the_stated_probability():
    torch.manual_seed(0)
    coordinates = torch.zeros(4, 2, 3, 3)
    moved = []
    for _ in range(2000):
        jittered = jitter_coordinates(coordinates, std=0.05, probability=0.3)
        shifted = (jittered != 0).float().mean().item()
        assert shifted in {0.0, 1.0}, "all coordinates move, or none"
        moved.append(shifted)
    assert sum(moved) / len(moved) == pytest.approx(0.3, abs=0.04)


def test_noise_has_the_stated_spread_and_is_not_clamped():
    torch.manual_seed(0)
    coordinates = torch.ones(20, 2, 50, 50)
    noise = jitter_coordinates(coordinates, std=0.05, probability=1.0) - coordinates
    assert noise.std().item() == pytest.approx(0.05, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.max() > 0.1  # past the end of [-1, 1]
    assert torch.equal(jitter_coordinates(coordinates, 0.05, 0.0), coordinates)


def test_authors_jitter_is_the_default():
    local = LocalRepresentation(4)
    assert (local.jitter_std, local.jitter_probability) == (0.05, 0.5)
    assert local.grid.resolution == (8, 8)
    assert GlobalRepresentation(4, (2, 2)).grid.resolution == (4, 4)


@pytest.mark.parametrize(
    "arguments",
    [{"jitter_std": -0.1}, {"jitter_std": math.inf}, {"jitter_probability": -0.1}, {"jitter_probability": 1.5}],
    ids=str,
)
def test_impossible_jitter_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        LocalRepresentation(4, **arguments)
