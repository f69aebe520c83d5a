# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that hold one argument for each setting are read as those that group them."""

import lzma
from pathlib import Path

import pytest

from anomalib_grad.lightning_model import Grad
from anomalib_grad.settings.from_checkpoint import grouped

FLAT = Path(__file__).parents[1] / "checkpoint/data/flat_arguments.ckpt.xz"
"""Written before there were groups, its weights set to zero so that it is small."""


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flat") / "flat.ckpt"
    path.write_bytes(lzma.decompress(FLAT.read_bytes()))
    return path


def test_a_checkpoint_of_flat_arguments_loads_with_all_of_them(flat: Path) -> None:
    model = Grad.load_from_checkpoint(flat)
    settings, method, training = model.settings, model.settings.method, model.settings.training
    assert model.recipe == "crad_s"
    assert (settings.backbone, settings.layers, settings.image_size) == ("mobilenetv2_035", "coarsest", (64, 64))
    assert (method.num_blocks, method.local_resolution, method.jitter_std) == (
        1,
        [4, 3],
        0.1,
    )
    assert (settings.map.distance, settings.map.score_window) == ("cosine", 1)
    assert (training.learning_rate, training.pasted_patches, training.max_epochs) == (
        2e-3,
        1,
        1,
    )
    assert settings.cache.dtype == "float16"
    assert model.post_processor.false_alarm_rate == 0.25
    assert model.post_processor.categories == ["nut", "pin"]


def test_what_is_given_wins_over_a_checkpoint_and_leaves_the_rest_of_its_group(flat: Path) -> None:
    model = Grad.load_from_checkpoint(flat, training={"learning_rate": 0.5})
    training = model.settings.training
    assert (training.learning_rate, training.pasted_patches) == (0.5, 1)


def test_an_argument_that_is_none_is_refused(flat: Path) -> None:
    with pytest.raises(TypeError, match="Grad has no argument 'learning_rate'; constants are in method, training,"):
        Grad.load_from_checkpoint(flat, learning_rate=0.5)


@pytest.mark.parametrize(("fusion", "recipe"), [("residual", "grad"), ("mobile", "crad"), ("small", "crad_s")])
def test_flat_arguments_belong_to_the_published_recipe_of_their_fusion(fusion: str, recipe: str) -> None:
    assert grouped({"fusion": fusion, "max_epochs": None})["recipe"] == recipe


def test_the_folder_of_another_machines_cache_is_not_followed() -> None:
    assert grouped({"recipe": "plus", "cache": {"folder": "/theirs", "gib": 2}})["cache"] == {"folder": None, "gib": 2}
    assert "folder" not in grouped({"feature_cache_dir": "/theirs", "feature_cache_gib": 2})["cache"]
