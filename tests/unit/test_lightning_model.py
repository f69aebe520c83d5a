# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What Grad tells Lightning: optimiser, clipping, epochs; what it accepts."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Trainer

from anomalib_grad.files.configuration import CheckpointConfigurationError
from anomalib_grad.lightning_model import Grad
from anomalib_grad.thresholds import PerCategoryPostProcessor
from helpers import TINY, tiny


@pytest.fixture(scope="module")
def model() -> Grad:
    return Grad(**TINY)


def trainer(**arguments: Any) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **arguments)


def test_optimiser_trains_the_head_alone_networks_and_grids_at_their_rates(model: Grad) -> None:
    optimizer = model.configure_optimizers()["optimizer"]
    networks, grids = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (networks["lr"], grids["lr"]) == (1e-3, 0.1)
    assert networks["weight_decay"] == grids["weight_decay"] == 0.01
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names[id(parameter)] for parameter in grids["params"]) == [
        "model.head.global_representation.grid.cells",
        "model.head.local_representation.grid.cells",
    ]
    optimised = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(optimised) == sorted(trainable)
    assert not any("backbone" in name for name in optimised)


@pytest.mark.parametrize(
    ("given", "norm"),
    [
        ({}, 0.1),
        ({"gradient_clip_val": 0}, 20.0),
        ({"gradient_clip_val": 5.0}, 5.0),
        ({"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}, 1.0),
        ({"gradient_clip_algorithm": "value"}, 0.2),
    ],
)
def test_gradients_are_clipped_to_the_authors_norm_unless_the_trainer_says_otherwise(
    given: dict[str, Any], norm: float
) -> None:
    model = Grad(**TINY)
    model.trainer = trainer(**given)
    optimizer = model.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    group["params"][0].grad.view(-1)[:4] = 10.0  # a gradient of norm 20
    model.configure_gradient_clipping(optimizer, model.trainer.gradient_clip_val, model.trainer.gradient_clip_algorithm)
    clipped = torch.cat([parameter.grad.flatten() for group in optimizer.param_groups for parameter in group["params"]])
    assert clipped.norm().item() == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        ({}, 7),
        ({"max_epochs": 3}, 3),
        ({"max_epochs": -1}, -1),
        ({"max_epochs": 0}, 0),
        ({"max_steps": 5}, None),
        ({"max_time": "00:00:01:00"}, None),
        ({"fast_dev_run": True}, 1),
        ({"min_epochs": 2}, 7),
        ({"min_epochs": 9}, 9),
    ],
)
def test_own_epochs_apply_only_where_the_trainer_has_no_limit(given: dict[str, Any], epochs: int | None) -> None:
    model = Grad(**tiny(max_epochs=7))
    model.trainer = trainer(**given)
    assert model.trainer.max_epochs == epochs
    model.trainer = None


def test_no_trainer_argument_of_the_user_is_overridden(model: Grad) -> None:
    assert model.trainer_arguments == {}


def test_a_category_named_by_the_caller_reaches_the_post_processor() -> None:
    model = Grad(**TINY, category="nut")
    assert isinstance(model.post_processor, PerCategoryPostProcessor)
    assert model.post_processor.category == "nut"
    with pytest.raises(ValueError, match=r"'nut' needs thresholds per category.*PerCategoryPostProcessor"):
        Grad(**TINY, category="nut", post_processor=PostProcessor())
    with pytest.raises(ValueError, match="There is no category 'nut'; the model knows none yet"):
        model.eval()(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="category has 7, which is not text"):
        Grad(**TINY, category=7)


@pytest.mark.parametrize("export", ["to_torch", "to_onnx", "to_openvino"])
def test_no_model_is_exported_for_a_category_that_it_does_not_know(tmp_path: Path, export: str) -> None:
    model = Grad(**TINY, category="nut")
    with pytest.raises(ValueError, match="There is no category 'nut'; the model knows none yet"):
        getattr(model, export)(tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_forward_takes_images_of_any_size_and_returns_anomalib_predictions(model: Grad) -> None:
    prediction = model.eval()(torch.rand(2, 3, 90, 50))
    assert prediction.anomaly_map.shape == (2, 1, 64, 64)
    assert prediction.pred_score.shape == (2,)


def checkpoint_of(**changed: Any) -> dict[str, Any]:
    model = Grad(**tiny(**changed))
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (
            {"backbone": "mobilenetv2_100"},
            "backbone is 'mobilenetv2_100' in the checkpoint but 'mobilenetv2_050' in this model",
        ),
        ({"layers": ["blocks.1", "blocks.2"]}, r"layers is \['blocks.1', 'blocks.2'\] in the checkpoint"),
        ({"image_size": (96, 64)}, r"image_size is \[96, 64\] in the checkpoint but \[64, 64\] in this model"),
        ({"fusion": "mobile"}, "fusion is 'mobile' in the checkpoint"),
        ({"num_blocks": 2}, "num_blocks is 2 in the checkpoint but 1 in this model"),
        ({"hidden_channels": 8}, "hidden_channels is 8 in the checkpoint"),
        ({"local_resolution": [8, 6]}, r"local_resolution is \[8, 6\] in the checkpoint but \[8, 8\] in this model"),
        ({"global_dims": 3}, r"global_resolution is \[4, 4, 4\] in the checkpoint but \[4, 4\] in this model"),
        ({"cosine_weight": 0.6}, "cosine_weight is 0.6 in the checkpoint but 0.7 in this model"),
        ({"smoothing_window": 7}, "smoothing_window is 7 in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_field(
    model: Grad, changed: dict[str, Any], field: str
) -> None:
    with pytest.raises(CheckpointConfigurationError, match=field):
        model.on_load_checkpoint(checkpoint_of(**changed))


def test_an_indicator_threshold_that_was_asked_for_must_be_the_checkpoints() -> None:
    ten = checkpoint_of(mse_threshold=10.0)
    Grad(**tiny(mse_threshold=10.0)).on_load_checkpoint(ten)
    Grad(**TINY).on_load_checkpoint(ten)  # the default takes what the checkpoint brings
    with pytest.raises(
        CheckpointConfigurationError, match=r"mse_threshold is 10\.0 in the checkpoint but 2\.5 in this model"
    ):
        Grad(**tiny(mse_threshold=2.5)).on_load_checkpoint(ten)


def test_mse_threshold_takes_a_number_auto_or_the_backbones_default() -> None:
    assert Grad(**tiny(mse_threshold=2.5)).model.head.mse_threshold.item() == 2.5
    assert torch.isnan(Grad(**tiny(mse_threshold="auto")).model.head.mse_threshold)
    assert torch.isnan(Grad(**TINY).model.head.mse_threshold)
    authors = {**TINY, "backbone": "tf_efficientnet_b4.aa_in1k"}
    assert Grad(**authors).model.head.mse_threshold.item() == 10.0
    assert torch.isnan(Grad(**tiny(authors, mse_threshold="auto")).model.head.mse_threshold)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 64}, r"image_size must be height and width in whole pixels, such as \[224, 224\]; got 64\."),
        ({"image_size": (64,)}, r"got \(64,\)\."),
        ({"image_size": (64, 64, 3)}, r"got \(64, 64, 3\)\."),
        ({"image_size": (64.5, 64)}, r"got \(64\.5, 64\)\."),
        ({"image_size": "64"}, r"got '64'\."),
        (
            {"layers": "blocks.2"},
            r"layers must be a list of names, 'both', .*, got 'blocks\.2'; .* offers: ",
        ),
        ({"layers": 0}, "layers must be a list of names, 'both', 'coarsest', 'coarsest_stages' or 'middle', got 0"),
        (
            {"layers": ["coarsest"]},
            r"has no layer 'coarsest'; it offers: .*; or layers='both', 'coarsest', 'coarsest_stages' or 'middle'\.",
        ),
        ({"mse_threshold": -1}, "mse_threshold must be a positive, finite number or 'auto', got -1"),
        ({"mse_threshold": float("inf")}, "a positive, finite number or 'auto', got inf"),
        ({"mse_threshold": float("nan")}, "a positive, finite number or 'auto', got nan"),
        ({"mse_threshold": "10"}, "a positive, finite number or 'auto', got '10'"),
        ({"learning_rate": -1.0}, "learning_rate must be greater than 0 and finite, got -1.0"),
        ({"grid_learning_rate": math.inf}, "grid_learning_rate must be greater than 0 and finite, got inf"),
        ({"lr_gamma": 0.0}, "lr_gamma must be greater than 0 and finite"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, got -1.0"),
        ({"clip_norm": math.nan}, "clip_norm must be at least 0 and finite, got nan"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0 and finite"),
        ({"learning_rate": "a"}, "learning_rate must be greater than 0 and finite, got 'a'"),
        ({"pasted_patches": -1}, "pasted_patches must be a whole number of at least 0, got -1"),
        ({"pasted_patches": 1.5}, "pasted_patches must be a whole number of at least 0, got 1.5"),
        ({"hard_mining": "false"}, "hard_mining must be True or False, got 'false'"),
        ({"channel_dropout": "a"}, "channel_dropout must be at least 0 and less than 1, got 'a'"),
        ({"channel_dropout": 1.0}, "channel_dropout must be at least 0 and less than 1, got 1.0"),
        ({"channel_dropout": math.nan}, "channel_dropout must be at least 0 and less than 1, got nan"),
        ({"jitter_std": math.nan}, "jitter_std must be at least 0 and finite, got nan"),
        ({"indicator_weight": -1.0}, r"indicator_weight must lie in \[0, 1\], got -1\.0"),
        ({"indicator_weight": 1.1}, r"indicator_weight must lie in \[0, 1\], got 1\.1"),
        ({"cosine_weight": math.nan}, r"cosine_weight must lie in \[0, 1\], got nan"),
        ({"lr_step": 0}, "lr_step must be a whole number of at least 1, got 0"),
        ({"precision": "half"}, "precision must be auto or trainer, got 'half'"),
        ({"recipe": "best"}, "there is no recipe 'best'; choose one of crad, crad_s, grad, fast, plus"),
        ({"training": {"rate": 1}}, "training has no setting 'rate'; its settings are learning_rate, "),
        ({"training": 5}, "training must be a TrainingSettings or a dictionary, got 5"),
        ({"recipe": "plus", "layers": ["a"]}, r"recipe 'plus': .* has no layer 'a'; it offers: "),
        ({"recipe": "plus", "image_size": (8, 8)}, r"recipe 'plus': .* choose an image_size of at least"),
        ({"max_epochs": -5}, "max_epochs must be a whole number of at least 1, got -5"),
        ({"false_alarm_rate": "a"}, "false_alarm_rate must lie between 0 and 1, got 'a'"),
        ({"lr_schedule": "linear"}, "lr_schedule must be step or cosine, got 'linear'"),
    ],
)
def test_impossible_arguments_are_refused_in_one_sentence(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grad(**tiny(**changed))
