# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Measured errors mean the same for all products, places and directions; few or strange images upset none of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_grad.components import NormalVariation

CHANNELS, SIZE = 3, (6, 5)


def largest(distances: torch.Tensor) -> torch.Tensor:
    return distances.flatten(1).amax(dim=1)


def draw(images: int, level: float = 1.0, seed: int = 0) -> torch.Tensor:
    return level * torch.randn(images, CHANNELS, *SIZE, generator=torch.Generator().manual_seed(seed))


def fitted(errors: dict[int | None, torch.Tensor], categories: int) -> NormalVariation:
    variation = NormalVariation(CHANNELS, SIZE)
    batches = [(own, [index] * len(own)) for index, own in errors.items() if len(own)]
    variation.fit(lambda: batches, categories, largest)
    return variation


def test_scores_of_all_products_have_one_unit():
    quiet, loud = draw(300), draw(300, 50.0, seed=1)
    variation = fitted({0: quiet, 1: loud}, 2)
    for index, own in enumerate((quiet, loud)):
        scores = largest(variation(own, torch.full((len(own),), index)))
        assert scores.quantile(0.9) == pytest.approx(1, rel=0.3)


def test_a_place_that_always_differs_weighs_less():
    errors = draw(50)
    errors[..., 2, 2] *= 20
    scaled = fitted({None: errors}, 0)(torch.ones(1, CHANNELS, *SIZE))
    assert scaled[..., 2, 2] < 0.7 * scaled[..., 5, 0]


def test_a_direction_that_always_varies_weighs_less():
    errors = draw(50)
    errors[:, 0] *= 10
    variation = fitted({None: errors}, 0)
    noisy, quiet = torch.zeros(2, 1, CHANNELS, *SIZE)
    noisy[:, 0], quiet[:, 1] = 1, 1
    assert (variation(noisy) < 0.7 * variation(quiet)).all()


def test_larger_errors_are_farther_for_every_product():
    variation = fitted({0: draw(20), 1: draw(20, 3.0)}, 2)
    error = draw(1, seed=3)
    for index in (torch.tensor([0]), torch.tensor([1]), torch.tensor([2]), None):
        assert (variation(1.01 * error, index) > variation(error, index)).all()


def test_unknown_products_take_what_is_usual_for_all():
    variation = fitted({0: draw(20), 1: draw(20, 3.0)}, 2)
    error = draw(1)
    assert torch.equal(variation(error, torch.tensor([2])), variation(error))


def test_a_category_without_training_images_takes_what_is_usual_for_all():
    variation = fitted({1: draw(20)}, 2)
    assert len(variation.usual) == len(variation.matrices) == 3
    assert torch.equal(variation.usual[0], variation.usual[2])
    assert torch.equal(variation.matrices[0], variation.matrices[2])


def test_one_image_says_little():
    variation = fitted({0: draw(100), 1: draw(1, 1e-3)}, 2)
    error = draw(1, seed=5)
    known, hardly = (largest(variation(error, torch.tensor([index]))) for index in (0, 1))
    assert hardly < 20 * known


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([0.0, 1e-20, 1.0, 1e4]), min_size=1, max_size=3), st.integers(1, 4))
def test_strange_errors_give_finite_distances(levels: list[float], images: int):
    errors = {index: torch.full((images, CHANNELS, *SIZE), level) for index, level in enumerate(levels)}
    variation = fitted(errors, len(levels))
    for index, own in errors.items():
        assert variation(own + 1, torch.full((images,), index)).isfinite().all()


def test_rows_follow_the_names_of_categories():
    variation = fitted({0: draw(20), 1: draw(20, 3.0)}, 2)
    first, second, every = variation.usual.unbind()
    variation.rearrange(["a", "b"], ["b", "new", "a"])
    assert torch.equal(variation.usual, torch.stack([second, every, first, every]))
    assert len(variation.matrices) == 4


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="without training images"):
        NormalVariation(CHANNELS, SIZE).fit(list, 0, largest)
