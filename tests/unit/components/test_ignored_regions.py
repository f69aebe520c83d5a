# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What is ignored reaches neither the map nor the score of the rest."""

import pytest
import torch

from anomalib_grad.anomaly_map import AnomalyMapGenerator, upsampling_matrix
from anomalib_grad.components.ignored_regions import IgnoredRegions


def regions(kept: torch.Tensor, cells: int) -> IgnoredRegions:
    matrix = upsampling_matrix(cells, kept.shape[-1])
    return IgnoredRegions(kept, (matrix, matrix))


def left_half(categories: int = 2, side: int = 32) -> torch.Tensor:
    """The first category ignores the left half; the others, and unknown ones, nothing."""
    kept = torch.ones(categories + 1, 1, side, side, dtype=torch.bool)
    kept[0, ..., : side // 2] = False
    return kept


@pytest.mark.parametrize("share", [None, 0.05])
def test_nothing_from_an_ignored_region_reaches_the_score_or_the_map(share: float | None) -> None:
    torch.manual_seed(0)
    ignoring, generator = regions(left_half(), 8), AnomalyMapGenerator((8, 8), (32, 32), 5, 8, share)
    distance = torch.rand(1, 1, 8, 8).repeat(3, 1, 1, 1)
    distance[1:, ..., 2:5, :3] += 100  # in the ignored half: cells 0 to 3 lie in it
    index = torch.tensor([0, 0, 1])
    anomaly_map, score = generator(ignoring.weigh(distance, index))
    anomaly_map = ignoring.cut(anomaly_map, index)
    assert score[1] == score[0] < 2
    assert score[2] > 10, "the second category ignores nothing"
    assert torch.equal(anomaly_map[1], anomaly_map[0])
    assert (anomaly_map[:2, ..., :16] == 0).all()
    assert (anomaly_map[:2, ..., 16:] > 0).all()


def test_a_cell_counts_by_what_it_spreads_over_judged_pixels() -> None:
    torch.manual_seed(0)
    kept = torch.rand(1, 1, 30, 30) > 0.5
    matrix = upsampling_matrix(7, 30)
    distance = torch.rand(1, 1, 7, 7, dtype=torch.float64)
    spread = matrix @ distance @ matrix.T
    ours = matrix @ regions(kept, 7).weigh(distance) @ matrix.T
    assert ours.sum() == pytest.approx(spread[kept].sum().item(), rel=1e-5)


def test_an_unknown_product_ignores_nothing_and_a_single_one_its_own() -> None:
    several, single = regions(left_half(), 8), regions(left_half()[:1], 8)
    assert not several.pixels(None).any()
    assert not several.pixels(torch.tensor([2])).any()
    assert single.pixels(None).float().mean() == 0.5
    assert single.pixels(torch.tensor([0])).float().mean() == 0.5
    assert single.pixels(torch.tensor([1])).float().mean() == 0.5, "thresholds may tell products that the mask does not"


def test_masks_follow_the_names_of_their_products() -> None:
    kept = regions(left_half(), 8).rearranged(["nut", "pin"], ["bolt", "nut"])
    assert [bool(row.all()) for row in kept] == [True, False, True]
