# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The matrix form of map and score against resizing and pooling as the authors write them."""

import openvino as ov
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from anomalib_grad.anomaly_map import (
    LARGEST_DISTANCE,
    AnomalyMapGenerator,
    dissimilarity,
    layer_dissimilarity,
    residual_norm,
)


def by_pooling(residual: Tensor, size: tuple[int, int], smoothing: int, window: int) -> tuple[Tensor, Tensor]:
    """Upsample, smooth with zeros counted, average and take the maximum."""
    upsampled = functional.interpolate(residual, size, mode="bilinear", align_corners=True)
    smoothed = functional.avg_pool2d(upsampled, smoothing, stride=1, padding=smoothing // 2)
    pooled = functional.avg_pool2d(smoothed, (min(window, size[0]), min(window, size[1])), stride=1)
    return smoothed, pooled.amax(dim=(1, 2, 3))


def angle(features: Tensor, normal: Tensor, start: int, end: int) -> Tensor:
    """One minus the cosine between two maps in some channels."""
    own, other = features[:, start:end], normal[:, start:end]
    return 1 - (own * other).sum(dim=1) / (own.norm(dim=1) * other.norm(dim=1))


def residual_of(feature_size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.rand(batch, 1, *feature_size, generator=torch.Generator().manual_seed(sum(feature_size)))


@pytest.mark.parametrize(
    ("feature_size", "image_size"),
    [((28, 28), (224, 224)), ((28, 40), (224, 320)), ((16, 9), (128, 72)), ((4, 6), (64, 96)), ((20, 13), (300, 200))],
)
def test_published_windows(feature_size, image_size):
    residual = residual_of(feature_size)
    anomaly_map, score = AnomalyMapGenerator(feature_size, image_size)(residual)
    expected_map, expected_score = by_pooling(residual, image_size, 21, 32)
    assert anomaly_map.shape == (2, 1, *image_size)
    assert score.shape == (2,)
    torch.testing.assert_close(anomaly_map, expected_map, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(score, expected_score, rtol=1e-5, atol=1e-6)


sides = st.integers(1, 12)


@given(
    feature_size=st.tuples(sides, sides),
    scale=st.integers(1, 8),
    smoothing=st.integers(0, 12).map(lambda half: 2 * half + 1),
    window=st.integers(1, 40),
)
@settings(deadline=None, max_examples=80)
def test_any_size_and_windows(feature_size, scale, smoothing, window):
    image_size = (scale * feature_size[0], scale * feature_size[1])
    residual = residual_of(feature_size)
    computed = AnomalyMapGenerator(feature_size, image_size, smoothing, window)(residual)
    torch.testing.assert_close(computed, by_pooling(residual, image_size, smoothing, window), rtol=1e-4, atol=1e-6)


def test_a_map_smaller_than_the_score_window_is_averaged_whole():
    anomaly_map, score = AnomalyMapGenerator((3, 3), (24, 24), smoothing_window=5)(residual_of((3, 3)))
    torch.testing.assert_close(score, anomaly_map.mean(dim=(1, 2, 3)))


def test_residual_norm_is_the_euclidean_distance_over_channels():
    features, refined = torch.zeros(1, 2, 1, 2), torch.tensor([[[[3.0, 0.0]], [[4.0, 1.0]]]])
    torch.testing.assert_close(residual_norm(features, refined), torch.tensor([[[[5.0, 1.0]]]]))


def test_dissimilarity_is_what_the_similarity_lacks_and_never_negative():
    torch.testing.assert_close(dissimilarity(torch.tensor([1.0 + 1e-7, 0.3, -0.7])), torch.tensor([0.0, 0.7, 1.7]))


def test_long_features_of_one_layer_do_not_drown_those_of_another():
    generator = torch.Generator().manual_seed(0)
    features, normal = torch.randn(2, 2, 12, 3, 5, generator=generator)
    lengths = torch.tensor([1.0] * 4 + [100.0] * 8).view(1, 12, 1, 1)
    distance = layer_dissimilarity(features, normal, [4, 8])
    torch.testing.assert_close(layer_dissimilarity(features * lengths, normal * lengths, [4, 8]), distance)
    torch.testing.assert_close(
        distance[:, 0], 1 / 3 * angle(features, normal, 0, 4) + 2 / 3 * angle(features, normal, 4, 12)
    )
    assert layer_dissimilarity(features, -features, [4, 8]).max().item() == pytest.approx(2)
    assert (layer_dissimilarity(features, features, [4, 8]) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_of_zero_have_a_distance(dtype):
    assert (layer_dissimilarity(*torch.zeros(2, 1, 6, 2, 2, dtype=dtype), [2, 4]) == 1).all()


@pytest.mark.parametrize("share", [0.01, 0.06, 1.0])
def test_the_largest_share_of_the_map_is_the_score(share):
    """Every fourth pixel is enough: the score is that of all pixels to a few percent."""
    anomaly_map, score = AnomalyMapGenerator((28, 28), (224, 224), 15, score_share=share)(residual_of((28, 28)))
    largest = anomaly_map.flatten(1).sort(dim=1, descending=True).values[:, : round(share * 224 * 224)]
    torch.testing.assert_close(score, largest.mean(dim=1), rtol=0.03, atol=0)


def test_a_single_cell_has_a_score():
    anomaly_map, score = AnomalyMapGenerator((1, 1), (2, 2), 1, score_share=0.1)(torch.full((1, 1, 1, 1), 3.0))
    assert score.item() == anomaly_map.max().item() == 3


def test_half_precision_features_are_scored_in_float32():
    generator = AnomalyMapGenerator((8, 8), (64, 64))
    residual = residual_of((8, 8)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        anomaly_map, score = generator(residual)
    assert anomaly_map.dtype == score.dtype == torch.float32
    torch.testing.assert_close(anomaly_map, generator(residual.float())[0], rtol=0, atol=0)


def test_openvino_keeps_map_and_score_in_float32_where_the_network_runs_in_bf16():
    generator, residual = AnomalyMapGenerator((28, 28), (224, 224)), residual_of((28, 28))
    exported = ov.convert_model(generator, example_input=residual)
    compiled = ov.Core().compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    for computed, expected in zip(compiled(residual.numpy()).values(), generator(residual), strict=True):
        torch.testing.assert_close(torch.from_numpy(computed), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [None, 0.06])
@pytest.mark.parametrize("no_number", [torch.nan, torch.inf, 3e38])
def test_what_cannot_be_scored_is_beyond_any_threshold_also_exported(share, no_number):
    residual = residual_of((8, 8))
    residual[1, 0, 3, 4] = no_number
    generator = AnomalyMapGenerator((8, 8), (64, 64), score_share=share)
    anomaly_map, score = generator(residual)
    torch.testing.assert_close(score[0], generator(residual[:1])[1][0], rtol=0, atol=0)
    assert torch.isfinite(anomaly_map.half()).all()
    assert 100 < score[1] <= LARGEST_DISTANCE
    exported = ov.Core().compile_model(ov.convert_model(generator, example_input=residual), "CPU")
    for computed, expected in zip(exported(residual.numpy()).values(), (anomaly_map, score), strict=True):
        torch.testing.assert_close(torch.from_numpy(computed), expected, rtol=1e-5, atol=1e-6)


def test_nothing_of_it_is_stored_in_checkpoints():
    assert not AnomalyMapGenerator((4, 4), (32, 32)).state_dict()


@pytest.mark.parametrize(
    ("windows", "message"),
    [((20, 32), "positive odd number, got 20"), ((-1, 32), "positive odd number"), ((21, 0), "score_window")],
)
def test_impossible_windows_are_refused(windows, message):
    with pytest.raises(ValueError, match=message):
        AnomalyMapGenerator((4, 4), (32, 32), *windows)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="score_share must be more than 0 and at most 1"):
        AnomalyMapGenerator((4, 4), (32, 32), score_share=share)
