# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

"""The recogniser names known products, says so of unseen ones, survives degenerate training sets, and exports."""

import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_grad.categories.recogniser import MARGIN, CategoryRecogniser


def clusters(counts: list[int], channels: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian clouds of spread 1 whose means lie about 30 apart."""
    generator = torch.Generator().manual_seed(seed)
    means = 10 * torch.randn(len(counts), channels, generator=generator)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return means[labels] + torch.randn(len(labels), channels, generator=generator), labels


def fitted(counts: list[int], seed: int = 0) -> tuple[CategoryRecogniser, torch.Tensor, torch.Tensor]:
    features, labels = clusters(counts, seed=seed)
    recogniser = CategoryRecogniser()
    recogniser.fit(features, labels, len(counts))
    return recogniser, features, labels


def test_names_known_products_and_flags_unseen_ones() -> None:
    recogniser, features, labels = fitted([40, 40, 8])
    assert torch.equal(recogniser(features), labels)
    assert torch.equal(recogniser(recogniser.means), torch.arange(3))
    assert recogniser(features + 100).tolist() == [3] * 88
    assert recogniser(torch.full((1, 6), float("nan"))).tolist() == [3]


def test_distances_equal_the_direct_formula() -> None:
    recogniser, features, _ = fitted([20, 5])
    direct = ((features[:, None] - recogniser.means) / recogniser.scale).norm(dim=2)
    torch.testing.assert_close(recogniser.distances(features), direct, rtol=1e-4, atol=1e-3)


def test_quiet_channel_that_separates_beats_loud_one_that_does_not() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(200) % 2
    loud = 100 * torch.randn(200, 1, generator=generator)
    quiet = labels[:, None] + 0.05 * torch.randn(200, 1, generator=generator)
    recogniser = CategoryRecogniser()
    recogniser.fit(torch.cat([loud, quiet], dim=1), labels, 2)
    assert torch.equal(recogniser(torch.cat([loud, quiet], dim=1)), labels)


def test_the_radius_reaches_a_margin_beyond_the_farthest_training_image() -> None:
    recogniser, features, labels = fitted([10, 10])
    farthest = recogniser.distances(features)[range(20), labels].max() * 10 / 9  # to the mean of the others
    torch.testing.assert_close(recogniser.radius.max(), MARGIN * farthest)


def test_category_of_one_training_image_takes_the_radius_of_the_others() -> None:
    recogniser, features, labels = fitted([1, 30, 30])
    assert recogniser.radius[0] == recogniser.radius[1:].max()
    assert torch.equal(recogniser(features), labels)
    assert recogniser(features[:1] + 0.5).tolist() == [0]


def test_category_of_nearly_equal_training_images_does_not_shut_out_its_other_ones() -> None:
    features, labels = clusters([30, 30, 30])
    even = labels == 0
    training = features.clone()
    training[even] = features[even].mean(dim=0) + (features[even] - features[even].mean(dim=0)) / 100
    recogniser = CategoryRecogniser()
    recogniser.fit(training, labels, 3)
    assert torch.equal(recogniser(features), labels)


@pytest.mark.parametrize("num_categories", [1, 3])
def test_without_any_spread_nothing_is_unseen(num_categories: int) -> None:
    recogniser, features, labels = fitted([1] * num_categories)
    assert torch.equal(recogniser(features + 0.5), labels)
    assert recogniser.radius.isinf().all()


def test_rounding_of_features_is_no_spread() -> None:
    """As of one picture that stands in the folder several times, in batches of different sizes."""
    torch.manual_seed(0)
    means = torch.tensor([[1.0, 2.0, 0.5], [1.5, 2.0, 0.1]]).repeat_interleave(6, dim=0)
    recogniser = CategoryRecogniser()
    recogniser.fit(means * (1 + 1e-7 * torch.randn(12, 3)), torch.arange(12) // 6, 2)
    assert recogniser(torch.tensor([[1.1, 2.1, 0.6], [1.5, 1.9, 0.1]])).tolist() == [0, 1], "nothing is unseen"


def test_constant_channel_neither_divides_by_zero_nor_dominates() -> None:
    features, labels = clusters([20, 20])
    features[:, 0] = 4.0
    recogniser = CategoryRecogniser()
    recogniser.fit(features, labels, 2)
    shaken = features.clone()
    shaken[:, 0] += 1e-3
    assert torch.equal(recogniser(shaken), labels)
    assert (recogniser.scale > 0).all()


def test_not_fitted_answers_unseen() -> None:
    recogniser = CategoryRecogniser()
    assert recogniser(torch.rand(4, 7)).tolist() == [0] * 4
    recogniser.reset(5)
    assert recogniser(torch.rand(2, 7)).tolist() == [5] * 2


def test_state_dict_carries_the_fit_into_a_fresh_recogniser() -> None:
    recogniser, features, labels = fitted([10, 4])
    fresh = CategoryRecogniser()
    fresh.load_state_dict(recogniser.state_dict())
    assert torch.equal(fresh(features), labels)
    assert torch.equal(fresh.radius, recogniser.radius)


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    scale=st.floats(0.01, 100.0),
    shift=st.floats(-10.0, 10.0),
)
def test_answers_do_not_depend_on_units(counts: list[int], seed: int, scale: float, shift: float) -> None:
    recogniser, features, labels = fitted(counts, seed=seed)
    other = CategoryRecogniser()
    if max(counts) == 1:
        return  # without spread the scale is a constant, not a unit of the features
    other.fit(scale * features + shift, labels, len(counts))
    torch.testing.assert_close(other.radius, recogniser.radius, rtol=1e-2, atol=1e-2)
    assert torch.equal(other(scale * features + shift), labels)


@pytest.mark.parametrize("is_fitted", [True, False])
def test_openvino_gives_the_same_index_for_any_batch_size(tmp_path, is_fitted: bool) -> None:
    recogniser, features, _ = fitted([10, 10, 3])
    if not is_fitted:
        recogniser.reset(3)
    path = tmp_path / "recogniser.onnx"
    torch.onnx.export(
        recogniser.eval(),
        (features[:2],),
        path,
        dynamo=True,
        dynamic_shapes={"features": {0: torch.export.Dim("batch")}},
        input_names=["features"],
    )
    compiled = ov.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (features, features[:1], features[:5] + 100):
        np.testing.assert_array_equal(compiled(batch.numpy())[0], recogniser(batch).numpy())
