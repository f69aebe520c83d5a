# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The torch model: outputs in training and eval, and the same numbers after export for every dimension and family."""

import inspect
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_grad.anomaly_map import AnomalyMapGenerator, residual_norm
from anomalib_grad.components.head import GradHead
from anomalib_grad.files.configuration import CheckpointConfigurationError
from anomalib_grad.torch_model import GradModel, TrainingOutput, in_eval_mode

TINY = {"pre_trained": False, "fusion": "small", "num_blocks": 1, "smoothing_window": 5, "score_window": 8}


def tiny(backbone: str = "mobilenetv3_small_050", size: tuple[int, int] = (64, 96), **arguments) -> GradModel:
    torch.manual_seed(0)
    return GradModel(backbone, image_size=size, **{**TINY, "mse_threshold": 1.0, **arguments})


def images_of(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def spread_coordinates(head: GradHead) -> None:
    """Weights of order one, so that samples differ from pixel to pixel and from image to image."""
    for part in (head.local_representation, head.global_representation):
        for parameter in part.coordinates.parameters():
            nn.init.normal_(parameter, std=0.7)
        nn.init.normal_(part.grid.cells)


def test_eval_gives_map_and_score_and_training_what_the_loss_compares():
    model, images = tiny(), images_of((64, 96), 3)
    prediction = model.eval()(images)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.pred_score.shape == (3,)
    assert prediction.anomaly_map.shape == (3, 1, 64, 96)
    assert (prediction.anomaly_map >= 0).all()

    features, refined = model.train()(images)
    assert isinstance(model(images), TrainingOutput)
    assert features.shape == refined.shape == (3, model.backbone.channels, 8, 12)
    assert refined.requires_grad
    assert not features.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_images_of_another_size_are_refused(training: bool):
    with pytest.raises(
        ValueError, match=r"8 x 12 cells, .* have 8 x 8: give it images of 64 x 96 pixels, or leave out"
    ):
        tiny().train(training)(images_of((64, 64)))


def test_prediction_is_the_chain_of_its_parts():
    model, images = tiny().eval(), images_of((64, 96))
    features = model.backbone(images)
    residual = residual_norm(features, model.head(features).refined)
    upsampled = functional.interpolate(residual, (64, 96), mode="bilinear", align_corners=True)
    smoothed = functional.avg_pool2d(upsampled, 5, stride=1, padding=2)
    score = functional.avg_pool2d(smoothed, 8, stride=1).amax(dim=(1, 2, 3))
    prediction = model(images)
    torch.testing.assert_close(prediction.anomaly_map, smoothed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.pred_score, score, rtol=1e-4, atol=1e-5)


def test_the_cosine_of_each_layer_counts_by_its_channels():
    model, images = tiny(distance="cosine").eval(), images_of((64, 96))
    with torch.no_grad():
        features = model.backbone(images)
        normal = model.head.normal(features)
        first, second = (layer.channels for layer in model.backbone.maps)
        fine = 1 - functional.cosine_similarity(features[:, :first], normal[:, :first])
        coarse = 1 - functional.cosine_similarity(features[:, first:], normal[:, first:])
        distance = (first * fine + second * coarse) / (first + second)
        anomaly_map, score = model.anomaly_map_generator(distance.unsqueeze(1))
        prediction = model(images)
    torch.testing.assert_close(prediction.anomaly_map, anomaly_map)
    torch.testing.assert_close(prediction.pred_score, score)


def test_the_dissimilarity_of_former_checkpoints_takes_the_place_of_the_residual():
    model, images = tiny(distance="dissimilarity").eval(), images_of((64, 96))
    expected, _ = model.anomaly_map_generator((1 - model.head(model.backbone(images)).similarity).clamp(min=0))
    torch.testing.assert_close(model(images).anomaly_map, expected)
    assert (model(10 * images).anomaly_map <= 1.7).all()  # it has no unit


def test_each_image_is_measured_in_the_unit_of_its_category():
    model, images = tiny(scaled=True).eval(), images_of((64, 96))
    features = model.backbone(images)
    plain = model(features=features)
    model.normal_scale.fit({0: torch.full((90,), 2.0), 1: torch.full((90,), 8.0)}, 2)
    units = model.normal_scale.units
    scaled = model(features=features, category=torch.tensor([1, 0]))
    torch.testing.assert_close(scaled.pred_score, plain.pred_score / units[[1, 0]])
    torch.testing.assert_close(scaled.anomaly_map, plain.anomaly_map / units[[1, 0]].view(-1, 1, 1, 1))


def test_the_head_sees_whitened_features():
    model, images = tiny(whitening=True), images_of((64, 96), 4)
    model.whitening.fit([model.backbone(images)])
    seen, _ = model.train()(images)
    variances = torch.linalg.eigvalsh(seen.transpose(0, 1).flatten(1).cov())
    assert variances.max() < 1.1
    assert variances.max() > 0.8


def test_regions_of_products_whose_data_bring_none_stay() -> None:
    model, names = tiny(), ["nut", "pin"]
    for name in names:
        model.ignore({name: torch.arange(96).expand(64, 96) < 48}, names)
    assert [bool(row.all()) for row in model.ignored.kept] == [False, False, True]


def test_a_pickle_from_before_corruption_and_ignored_regions_judges_as_ever() -> None:
    model, images, older = tiny().eval(), images_of((64, 96)), GradModel.__new__(GradModel)
    older.__setstate__({name: value for name, value in vars(model).items() if name not in {"corruption", "ignored"}})
    assert torch.equal(older(images).anomaly_map, model(images).anomaly_map)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_goes_back_into_the_mode_that_it_was_in(training: bool) -> None:
    model = nn.Identity().train(training)
    with in_eval_mode(model):
        assert not model.training
    assert model.training == training


def test_a_trained_model_takes_the_tiles_that_it_has() -> None:
    model = tiny()
    spread_coordinates(model.head)
    model.tiler = None
    assert model.tiler is None


def test_features_of_a_large_image_on_a_small_grid():
    """Reduced features are local means: a constant image stays constant, and the head has as many cells as asked."""
    model = tiny(size=(128, 192), feature_size=(8, 12)).eval()
    assert model.backbone.map_shapes[0][1:] == (16, 24)
    features = model.backbone(images_of((128, 192)))
    assert features.shape == (2, model.backbone.channels, 8, 12)
    fine, coarse = model.backbone.feature_maps(images_of((128, 192)))
    expected = functional.interpolate(fine, (8, 12), mode="bilinear", antialias=True)
    torch.testing.assert_close(features[:, : fine.shape[1]], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features[:, fine.shape[1] :], coarse)
    assert model(images_of((128, 192))).anomaly_map.shape == (2, 1, 128, 192)


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_one_step_lowers_the_loss_in_any_dimension(dims):
    model, images = (
        tiny(local_dims=dims, global_dims=dims, local_resolution=3, global_resolution=2),
        images_of((64, 96)),
    )
    model.train()
    features = model.backbone(images)
    optimizer = torch.optim.AdamW(
        [{"params": model.head.network_parameters(), "lr": 1e-3}, {"params": model.head.grid_parameters(), "lr": 0.1}]
    )
    model.head.local_representation.jitter_std = 0.0  # chance apart
    losses = []
    for _ in range(3):
        loss = functional.mse_loss(model.head(features).refined, features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert losses[2] < losses[1]


class HeadAndMap(nn.Module):
    """The trained half of the model, features in: exports in a fraction of the whole model's time."""

    def __init__(self, **arguments) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = GradHead(6, (4, 5), mse_threshold=1.0, **arguments)
        self.anomaly_map_generator = AnomalyMapGenerator((4, 5), (32, 40), 5, 8)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.anomaly_map_generator(residual_norm(features, self.head(features).refined))


def assert_exports(model: nn.Module, shape: tuple[int, ...], folder: Path) -> None:
    """ONNX and OpenVINO give the same maps and scores, for batches of any size."""
    file = folder / "model.onnx"
    generator = torch.Generator().manual_seed(1)
    example = torch.randn(2, *shape, generator=generator)
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.onnx.export(model.eval(), (example,), file, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    compiled = ov.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 3):
        inputs = torch.randn(batch, *shape, generator=generator)
        with torch.no_grad():
            expected = {value.ndim: value for value in model(inputs) if value is not None}
        for value in compiled(inputs.numpy()).values():
            wanted = expected.pop(value.ndim)
            torch.testing.assert_close(
                torch.from_numpy(np.array(value)), wanted, rtol=1e-4, atol=1e-4 * wanted.max().item()
            )
        assert not expected


@pytest.mark.parametrize(("local_dims", "global_dims"), [(1, 4), (2, 2), (3, 1), (4, 3)])
def test_export_gives_the_same_numbers_in_any_dimension(local_dims, global_dims, tmp_path):
    model = HeadAndMap(
        fusion="small",
        num_blocks=1,
        local_dims=local_dims,
        global_dims=global_dims,
        local_resolution=[2, 3, 4, 2][:local_dims],
        global_resolution=[3, 2, 2, 2][:global_dims],
    )
    spread_coordinates(model.head)
    assert_exports(model, (6, 4, 5), tmp_path)


@pytest.mark.parametrize("fusion", ["residual", "mobile"])
def test_export_gives_the_same_numbers_with_every_fusion(fusion, tmp_path):
    model = HeadAndMap(fusion=fusion, num_blocks=2)
    spread_coordinates(model.head)
    assert_exports(model, (6, 4, 5), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("mobilenetv3_small_050", (64, 96)),  # stages cut
        ("swin_tiny_patch4_window7_224", (64, 64)),  # channels last
        ("grad_tiny", (64, 64)),
    ],
)
def test_export_gives_the_same_numbers_for_whole_models(backbone, size, tmp_path):
    model = tiny(backbone, size)
    spread_coordinates(model.head)
    assert_exports(model, (3, *size), tmp_path)


@pytest.mark.slow
def test_export_gives_the_same_numbers_with_every_departure_from_the_paper(tmp_path):
    size = (96, 96)
    model = tiny(
        size=size, feature_size=(8, 8), distance="dissimilarity", score_share=0.06, whitening=True, scaled=True
    )
    spread_coordinates(model.head)
    model.whitening.fit([model.backbone(images_of(size, 4))])
    model.normal_scale.fit({0: torch.tensor([2.0, 3.0])}, 1)
    assert_exports(model, (3, *size), tmp_path)


def test_defaults_are_the_authors():
    head = {name: p.default for name, p in inspect.signature(GradHead).parameters.items()}
    assert head["fusion"] == "mobile"
    assert (head["local_resolution"], head["local_dims"]) == (8, 2)
    assert (head["global_resolution"], head["global_dims"]) == (4, 2)
    assert (head["jitter_std"], head["jitter_probability"]) == (0.05, 0.5)
    assert (head["indicator_weight"], head["cosine_weight"], head["mse_threshold"]) == (0.3, 0.7, 10.0)
    model = {name: p.default for name, p in inspect.signature(GradModel).parameters.items()}
    assert model["backbone"] == "tf_efficientnet_b4.aa_in1k"
    assert (model["image_size"], model["smoothing_window"], model["score_window"]) == ((224, 224), 21, 32)
    assert (model["distance"], model["feature_size"], model["score_share"]) == ("residual", None, None)


def test_a_state_dict_of_it_loads_strictly_into_another():
    first, second = tiny(), tiny()
    spread_coordinates(first.head)
    second.load_state_dict(first.state_dict())
    images = images_of((64, 96))
    torch.testing.assert_close(first.eval()(images).anomaly_map, second.eval()(images).anomaly_map)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "large"}, "residual, mobile, small"),
        ({"backbone": "no_such_network"}, "unknown backbone"),
        ({"layers": ["blocks.77"]}, "it offers: "),
        ({"local_dims": 0}, "at least 1 dimension"),
        ({"global_resolution": [4, 4, 4]}, "needs 2 resolutions"),
        ({"smoothing_window": 4}, "odd"),
        ({"jitter_probability": 2.0}, "jitter_probability"),
        ({"distance": "angle"}, "distance must be residual or cosine, got 'angle'"),
        ({"feature_size": [28]}, "feature_size must be height and width"),
        ({"feature_size": [1, 28]}, "at least 2 cells"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


@pytest.mark.parametrize("shape", [(1000, 1, 1, 1), (3, 64, 96), (0, 1, 64, 96), ()])
def test_ignore_masks_of_another_size_than_the_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointConfigurationError, match=r"'ignored\.kept' has shape"):
        tiny().make_room({"ignored.kept": torch.ones(shape, dtype=torch.bool)}, "")
