# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole and ask for a model or images that nothing can be made of, or only with all memory."""

import codecs
from collections import OrderedDict
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_grad.backbone.weights import BackboneWeightsError
from anomalib_grad.files.checkpoint_reading import CheckpointFileError
from anomalib_grad.files.configuration import CheckpointConfigurationError
from anomalib_grad.lightning_model import Grad
from anomalib_grad.settings import MethodSettings
from helpers import TINY
from hostile import Call, change

MANY = 10**6
OVERSIZED = {
    "local_resolution": 10**5,
    "global_resolution": [10**3, 10**4],
    "image_size": (MANY, MANY),
    "feature_size": (1000, 1000),
    "num_blocks": 10**9,
    "hidden_channels": 2 * MANY,
    "backbone": "vit_giant_patch14_clip_224",
}


@pytest.mark.parametrize(("argument", "value"), OVERSIZED.items())
def test_a_checkpoint_cannot_ask_for_a_model_larger_than_itself(
    whole: Path, tmp_path: Path, argument: str, value: object
) -> None:
    hostile = tmp_path / "hostile.ckpt"
    method = argument in MethodSettings.__dataclass_fields__
    change(whole, hostile, hyper_parameters={"method": {argument: value}} if method else {argument: value})
    with pytest.raises(CheckpointFileError, match=f"its {argument} asks for a larger model than the file"):
        Grad.load_from_checkpoint(hostile)


def transform(whole: Path, target: Path, name: str, arguments: dict[str, object]) -> None:
    """Copy a checkpoint and have it transform images in a way of its own."""
    step = {"class_path": f"torchvision.transforms.v2.{name}", "init_args": arguments}
    spec = {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": [step]}}
    change(whole, target, anomalib_pre_processor_config={"transform": spec})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *(("Resize", {"size": side}) for side in (20_000, [20_000], (20_000, 20_000), [20_000.0, 20_000.0])),
        ("Resize", {"size": None, "max_size": 20_000}),
        ("Pad", {"padding": 20_000}),
        ("Grayscale", {"num_output_channels": 20_000}),
    ],
)
def test_a_checkpoint_cannot_have_images_made_larger_than_its_model(
    whole: Path, tmp_path: Path, name: str, arguments: dict[str, object]
) -> None:
    transform(whole, hostile := tmp_path / "hostile.ckpt", name, arguments)
    with pytest.raises(CheckpointFileError, match="its pre-processor makes images with more pixels than its model"):
        Grad.load_from_checkpoint(hostile)


@pytest.mark.parametrize("side", [[0, 64], [-5, -5], 0])
def test_a_checkpoint_cannot_have_images_made_of_no_size(whole: Path, tmp_path: Path, side: object) -> None:
    transform(whole, hostile := tmp_path / "hostile.ckpt", "Resize", {"size": side})
    with pytest.raises(CheckpointFileError, match="its pre-processor makes images with a height or width below 1"):
        Grad.load_from_checkpoint(hostile)


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": {"local_resolution": 0, "local_dims": -1}},
        {"method": {"local_dims": -1}},
        {"backbone": 5},
        {"backbone": ["a"]},
    ],
)
def test_impossible_arguments_in_a_checkpoint_are_named(whole: Path, tmp_path: Path, arguments: dict) -> None:
    change(whole, hostile := tmp_path / "hostile.ckpt", hyper_parameters=arguments)
    with pytest.raises(ValueError, match=r"a grid needs at least 1 dimension, got -1|backbone must be a timm"):
        Grad.load_from_checkpoint(hostile)


@pytest.mark.parametrize("step", [[-32, -32], [0, 0]])
def test_a_checkpoint_cannot_skip_all_tiles(whole: Path, tmp_path: Path, step: list[int]) -> None:
    """anomalib's tiler would make images of zeros, in which nothing is anomalous."""
    tiling = {"tile_size": [32, 32], "stride": step, "remove_border_count": 0, "mode": "padding"}
    change(whole, hostile := tmp_path / "hostile.ckpt", grad_configuration={"tiling": tiling})
    with pytest.raises(CheckpointConfigurationError, match="'tiling' cannot be used"):
        Grad.load_from_checkpoint(hostile)


def test_what_would_take_forever_is_refused_at_once(whole: Path, tmp_path: Path) -> None:
    endless: Any = reduce(lambda inner, _: (inner, inner), range(60), ())
    hostile = tmp_path / "hostile.ckpt"
    change(whole, hostile, extra=Call(OrderedDict, [(endless, 1)]))
    with pytest.raises(
        CheckpointFileError, match="it refers to the same collections more often than any training does"
    ):
        Grad.load_from_checkpoint(hostile)
    change(whole, hostile, hyper_parameters={"image_size": [2**2000] * 20_000})
    with pytest.raises(CheckpointFileError, match="its image_size asks for a larger model than the file can hold"):
        Grad.load_from_checkpoint(hostile)
    torch.save({"weight": Call(codecs.encode, "a" * 10**6, "punycode")}, weights := tmp_path / "weights.pth")
    with pytest.raises(BackboneWeightsError, match="it holds Python objects"):
        Grad(**TINY | {"pre_trained": weights}).model.backbone.ensure_weights()
