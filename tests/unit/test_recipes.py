# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a recipe's name sets, and that what the user gives wins over it."""

from pathlib import Path
from typing import Any

import pytest

from anomalib_grad.lightning_model import Grad
from anomalib_grad.recipes import PUBLISHED, RECIPES, find_recipe, table
from anomalib_grad.settings import MethodSettings, Settings, TrainingSettings

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_shows_the_table_that_the_code_prints() -> None:
    assert table() in README.read_text()


def test_without_a_name_the_model_is_the_published_one() -> None:
    model = Grad(pre_trained=False)
    assert model.recipe == "crad"
    assert model.settings == PUBLISHED
    training = model.settings.training
    assert model.model.backbone.layers == ["blocks.2", "blocks.4"]
    assert (training.max_epochs, training.steps) == (50, None)


@pytest.mark.parametrize(("name", "epochs"), [("crad", 50), ("crad_s", 50), ("grad", 100)])
def test_published_recipes_keep_their_epochs_and_the_trainers_precision(name: str, epochs: int) -> None:
    training = find_recipe(name).settings.training
    assert (training.max_epochs, training.steps, training.precision) == (epochs, None, "trainer")


@pytest.mark.parametrize(
    ("backbone", "given", "layers", "size", "length", "copies"),
    [
        ("mobilenetv3_small_050", {}, ["blocks.3"], (320, 320), (2000, 150), (3, 31)),
        ("vit_tiny_patch16_224", {}, ["blocks.5"], (224, 224), (600, 150), (1, 0)),
        (
            "vit_tiny_patch16_224",
            {"layers": "coarsest", "image_size": (64, 64), "training": {"steps": 9}},
            *(["blocks.8"], (64, 64), (9, None), (1, 0)),
        ),
    ],
)
def test_plus_is_another_one_on_a_plain_transformer(
    backbone: str,
    given: dict[str, Any],
    layers: list[str],
    size: tuple[int, int],
    length: tuple[int, int | None],
    copies: tuple[int, int],
) -> None:
    model: Any = Grad("plus", backbone=backbone, **given)
    training = model.settings.training
    assert (model.model.backbone.layers, model.model.backbone.image_size) == (layers, size)
    assert (training.steps, training.most_passes, training.copies, training.turned_below) == (*length, *copies)


def test_plus_takes_patches_of_14_pixels_without_being_told_a_size() -> None:
    assert Grad("plus", backbone="vit_small_patch14_dinov2").model.backbone.feature_size == (16, 16)


GIVEN: list[tuple[dict[str, Any], str, Any]] = [
    ({"layers": "both"}, "layers", ["adapter8", "adapter16"]),
    ({"image_size": (224, 224)}, "image_size", [224, 224]),
    ({"fusion": "mobile"}, "fusion", "mobile"),
    ({"method": {"num_blocks": 11}}, "num_blocks", 11),
    ({"map": {"scaled": False}}, "scaled", False),
    ({"map": {"score_window": 32}}, "score_share", None),
    ({"method": {"whitening": False}}, "whitening", False),
    ({"map": {"smoothing_window": 21}}, "smoothing_window", 21),
]


@pytest.mark.parametrize(("given", "name", "value"), GIVEN, ids=[name for _, name, _ in GIVEN])
def test_an_argument_wins_over_the_recipe_also_where_it_is_the_published_value(
    given: dict[str, Any], name: str, value: object
) -> None:
    plus, changed = (Grad("plus", backbone="grad_tiny", **own).model.configuration for own in ({}, given))
    assert plus[name] != value
    assert changed[name] == value


@pytest.mark.parametrize(
    ("given", "epochs", "steps", "most"),
    [
        ({}, None, 2000, 150),
        ({"steps": 100}, None, 100, None),
        ({"max_epochs": 7}, 7, None, None),
        ({"learning_rate": 1.0}, None, 2000, 150),
    ],
)
def test_a_length_that_is_given_takes_the_place_of_the_recipes(
    given: dict[str, Any], epochs: int | None, steps: int | None, most: int | None
) -> None:
    training = Settings(training=TrainingSettings(**given)).over(find_recipe("plus").settings).training
    assert (training.max_epochs, training.steps, training.most_passes) == (epochs, steps, most)


@pytest.mark.parametrize("name", RECIPES)
def test_settings_survive_as_plain_data(name: str) -> None:
    settings = find_recipe(name).settings
    assert Settings.of(settings.plain()) == settings


def test_groups_are_taken_as_dataclass_or_dictionary() -> None:
    one = Grad(backbone="grad_tiny", method=MethodSettings(num_blocks=2))
    other = Grad(backbone="grad_tiny", method={"num_blocks": 2})
    assert one.settings == other.settings
    assert one.hparams["method"] == other.hparams["method"]
