# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Scaled distances have one unit for all products; few or strange images upset none of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_grad.components.normal_scale import NormalScale


def draw(images: int, level: float = 1.0, seed: int = 0) -> torch.Tensor:
    return level * (1 + torch.rand(images, generator=torch.Generator().manual_seed(seed)))


def fitted(scores: dict[int | None, torch.Tensor], categories: int) -> NormalScale:
    scale = NormalScale()
    scale.fit(scores, categories)
    return scale


def scaled(scale: NormalScale, scores: torch.Tensor, index: int) -> torch.Tensor:
    return scale(scores.view(-1, 1, 1, 1), torch.full(scores.shape, index)).flatten()


def test_scores_of_all_products_have_one_unit():
    quiet, loud = draw(300), draw(300, 50.0, seed=1)
    scale = fitted({0: quiet, 1: loud}, 2)
    for index, own in enumerate((quiet, loud)):
        assert scaled(scale, own, index).quantile(0.9) == pytest.approx(1, rel=0.1)


def test_before_the_fit_every_product_has_the_unit_one():
    scale, scores = NormalScale(), draw(4)
    assert torch.equal(scaled(scale, scores, 2), scores)
    scale.rearrange(["a", "b"], ["b", "a"])
    assert scale.units.tolist() == [1, 1, 1]


def test_a_tenth_of_the_training_images_of_a_single_product_exceed_one():
    own = draw(101)
    assert (scaled(fitted({0: own}, 1), own, 0) > 1 + 1e-6).sum() == 10


def test_order_within_a_product_is_kept():
    scale = fitted({0: draw(20), 1: draw(20, 3.0)}, 2)
    scores = draw(50, seed=7)
    for index in (0, 1, 2):
        assert torch.equal(scaled(scale, scores, index).argsort(), scores.argsort())


def test_unknown_products_take_what_is_usual_for_all():
    scale = fitted({0: draw(20), 1: draw(20, 3.0)}, 2)
    scores = draw(4)
    assert torch.equal(scaled(scale, scores, 2), scale(scores.view(-1, 1, 1, 1)).flatten())
    assert scale.units[0] < scale.units[2] < scale.units[1]


def test_a_category_without_training_images_takes_what_is_usual_for_all():
    scale = fitted({1: draw(20)}, 2)
    assert len(scale.units) == 3
    assert scale.units[0] == scale.units[2]


def test_one_image_says_little():
    scale = fitted({0: draw(100), 1: draw(1, 1e-3)}, 2)
    assert scale.units[1] > scale.units[0] / 10


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([0.0, 1e-20, 1.0, 1e4]), min_size=1, max_size=3), st.integers(1, 4))
def test_strange_scores_give_finite_distances(levels: list[float], images: int):
    scores = {index: torch.full((images,), level) for index, level in enumerate(levels)}
    scale = fitted(scores, len(levels))
    for index, own in scores.items():
        assert scaled(scale, own + 1, index).isfinite().all()


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="scaled distances are fitted to training images, but there are none"):
        NormalScale().fit({}, 0)


def test_units_follow_the_names_of_categories():
    scale = fitted({0: draw(20), 1: draw(20, 3.0)}, 2)
    first, second, every = scale.units.tolist()
    scale.rearrange(["a", "b"], ["b", "new", "a"])
    assert scale.units.tolist() == [second, every, first, every]


def test_units_that_were_fitted_in_a_validation_can_be_loaded_into():
    with torch.inference_mode():
        scale = fitted({0: draw(20)}, 1)
    scale.load_state_dict({"units": torch.tensor([2.0, 3.0])})
    assert scale.units.tolist() == [2, 3]


def test_room_is_made_for_a_unit_of_each_category_and_for_nothing_else():
    scale = NormalScale()
    for stored in (torch.ones(3), torch.ones(3, 2), None):
        scale.make_room({"scale.units": stored}, "scale.")
        assert scale.units.shape == (3,)
