# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous grids of any dimension against torch's grid_sample, a literal paper equation 1 and a plain loop."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from anomalib_grad.components.representation import ContinuousGrid, interpolation_weights, sample_grid

CHANNELS = 3
grids = st.lists(st.integers(1, 6), min_size=1, max_size=4)
seeds = st.integers(0, 2**31)


def draw(resolution: list[int], seed: int, count: int = 12) -> tuple[Tensor, Tensor]:
    """A grid and coordinates, a few of them outside [-1, 1] and at its corners."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randn(1, CHANNELS, *resolution, generator=generator, dtype=torch.float64)
    coordinates = 2.6 * torch.rand(count, len(resolution), generator=generator, dtype=torch.float64) - 1.3
    coordinates[0], coordinates[1], coordinates[2] = -1.0, 1.0, 0.0
    return grid, coordinates


def by_grid_sample(grid: Tensor, coordinates: Tensor) -> Tensor:
    """torch's own sampling, (N, C), for two and three dimensions."""
    places = coordinates.view(1, len(coordinates), *[1] * (coordinates.shape[1] - 1), coordinates.shape[1])
    sampled = functional.grid_sample(grid, places, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.flatten(2).squeeze(0).T


def by_loop(grid: Tensor, coordinates: Tensor) -> Tensor:
    """The sum over the 2^D neighbouring cells, written out; cells outside the grid are zero."""
    resolution = grid.shape[2:]
    rows = []
    for coordinate in coordinates:
        position = [((c + 1) * r - 1) / 2 for c, r in zip(reversed(coordinate.tolist()), resolution, strict=True)]
        total = torch.zeros(CHANNELS, dtype=grid.dtype)
        for corner in itertools.product((0, 1), repeat=len(resolution)):
            cell = [math.floor(p) + side for p, side in zip(position, corner, strict=True)]
            if all(0 <= c < r for c, r in zip(cell, resolution, strict=True)):
                weight = math.prod(1 - abs(p - c) for p, c in zip(position, cell, strict=True))
                total = total + weight * grid[(0, slice(None), *cell)]
        rows.append(total)
    return torch.stack(rows)


@given(resolution=grids, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_any_dimension_and_resolution_equals_the_sum_over_neighbours(resolution, seed):
    grid, coordinates = draw(resolution, seed)
    torch.testing.assert_close(sample_grid(grid, coordinates), by_loop(grid, coordinates))


@given(resolution=grids, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_weights_are_a_partition_inside_and_fade_outside(resolution, seed):
    _, coordinates = draw(resolution, seed)
    weights = interpolation_weights(coordinates, resolution)
    assert weights.shape == (len(coordinates), math.prod(resolution))
    assert (weights >= 0).all()
    assert (weights.sum(dim=1) <= 1 + 1e-12).all()
    assert ((weights > 0).sum(dim=1) <= 2 ** len(resolution)).all()
    last_first = torch.tensor(resolution[::-1], dtype=torch.float64)
    between_centres = (coordinates.abs() <= 1 - 1 / last_first).all(dim=1)
    torch.testing.assert_close(weights.sum(dim=1)[between_centres], torch.ones(int(between_centres.sum())).double())


@given(resolution=st.lists(st.integers(1, 6), min_size=2, max_size=3), seed=seeds)
@settings(deadline=None, max_examples=60)
def test_values_and_gradients_equal_grid_sample(resolution, seed):
    grid, coordinates = draw(resolution, seed)
    # On a cell's centre the derivative is one-sided, and which side is taken is nobody's business.
    coordinates = coordinates[3:]
    grid.requires_grad_()
    coordinates.requires_grad_()
    cotangent = torch.randn(
        len(coordinates), CHANNELS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    ours, theirs = sample_grid(grid, coordinates), by_grid_sample(grid, coordinates)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad((sampled * cotangent).sum(), (grid, coordinates)) for sampled in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@given(cells=st.integers(2, 9), seed=seeds)
@settings(deadline=None, max_examples=40)
def test_one_dimension_is_equation_1_of_the_paper(cells, seed):
    """phi(v; G) = (n - v') G[m] + (v' - m) G[n] between the outermost centres."""
    grid, coordinates = draw([cells], seed)
    inside = coordinates[(coordinates.abs() < 1 - 1 / cells).squeeze(1)]
    cell_units = ((inside + 1) * cells - 1) / 2  # v': (N, 1)
    m = cell_units.floor().long().squeeze(1)
    n = m + 1
    expected = (n.unsqueeze(1) - cell_units) * grid[0, :, m].T + (cell_units - m.unsqueeze(1)) * grid[0, :, n].T
    torch.testing.assert_close(sample_grid(grid, inside), expected)


def test_component_0_runs_along_the_last_axis():
    grid = torch.arange(6.0).view(1, 1, 2, 3)  # rows y, columns x
    centres = torch.tensor([[-2 / 3, -0.5], [0.0, -0.5], [2 / 3, -0.5], [-2 / 3, 0.5]])
    torch.testing.assert_close(sample_grid(grid, centres).flatten(), torch.tensor([0.0, 1.0, 2.0, 3.0]))


def test_the_grid_is_not_copied_for_each_sample():
    """What autograd keeps for the backward pass does not hold the grid once per sample."""
    grid = torch.randn(1, 50, 8, 8, requires_grad=True)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    def largest(sampled) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            sampled()
        return max(kept)

    count = 200
    coordinates = (2 * torch.rand(count, 2) - 1).requires_grad_()
    assert largest(lambda: sample_grid(grid, coordinates)) <= max(count * 64, grid.numel())
    repeated = grid.expand(count, -1, -1, -1).clone()
    copying = largest(lambda: functional.grid_sample(repeated, coordinates.view(count, 1, 1, 2), align_corners=False))
    assert copying >= count * grid.numel(), "the check itself would not notice a copy"


@pytest.mark.parametrize(("channels", "resolution"), [(216, [8, 8]), (16 * 28 * 28, [4, 4])])
def test_cells_are_drawn_as_torch_draws_xavier_normal(channels, resolution):
    torch.manual_seed(0)
    grid = ContinuousGrid(channels, resolution)
    reference = torch.nn.init.xavier_normal_(torch.empty(1, channels, *resolution))
    assert grid.cells.std().item() == pytest.approx(reference.std().item(), rel=0.03)
    assert abs(grid.cells.mean().item()) < 0.03 * reference.std().item()


def test_published_spread_of_the_cells():
    """0.0121 for the local and 8.6e-4 for the global grid of EfficientNet-B4 at 224 pixels."""
    torch.manual_seed(0)
    assert ContinuousGrid(216, 8).cells.std().item() == pytest.approx(0.0121, rel=0.02)
    assert ContinuousGrid(216 * 28 * 28, 4).cells.std().item() == pytest.approx(8.6e-4, rel=0.01)


def test_resolution_is_one_number_or_one_an_axis():
    assert ContinuousGrid(2, 5, dims=3).resolution == (5, 5, 5)
    assert ContinuousGrid(2, [5, 1, 2], dims=3).resolution == (5, 1, 2)
    assert ContinuousGrid(2, [3], dims=1)(torch.zeros(4, 1)).shape == (4, 2)


@pytest.mark.parametrize(
    ("resolution", "dims", "message"),
    [
        (4, 0, "at least 1 dimension"),
        (0, 2, "at least 1"),
        ([4, 4, 4], 2, "2 resolutions"),
        ([4, 0], 2, "at least 1"),
        (
            10**6,
            3,
            "1000000 x 1000000 x 1000000 cells x 3 channels exceeds this machine's memory; choose fewer cells",
        ),
    ],
)
def test_impossible_grids_are_refused(resolution, dims, message):
    with pytest.raises(ValueError, match=message):
        ContinuousGrid(3, resolution, dims)
