# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which products live on in an extended model, and the features that stand for their images."""

import copy
import pickle

import pytest
import torch

from anomalib_grad.lightning_model import Grad
from anomalib_grad.training.extension import Extending, products_to_hold, products_to_keep
from anomalib_grad.training.feature_sample import FeatureSample
from helpers import TINY


@pytest.mark.parametrize(
    ("new", "replaced", "kept"),
    [
        (["bolt", "nut", "pin"], [], []),
        (["bolt"], [], ["nut", "pin"]),
        (["bolt", "nut"], ["nut"], ["pin"]),
        (["nut", "pin"], [], []),
    ],
)
def test_products_without_images_are_kept(new: list[str], replaced: list[str], kept: list[str]) -> None:
    assert products_to_keep(["nut", "pin"], new, replaced, ["nut", "pin"]) == kept


@pytest.mark.parametrize(
    ("new", "replaced", "sampled", "message"),
    [
        (
            [],
            [],
            ["nut", "pin"],
            "distinguishes nut, pin, but the data do not name their products: give a datamodule that names them",
        ),
        ([], [], [], "do not name their products"),
        (["nut"], ["nutt"], ["nut", "pin"], "replaces names nutt, but the old model knows nut, pin: name only"),
        (
            ["bolt", "nut"],
            [],
            ["nut", "pin"],
            "already knows nut, and the data contain no images of pin: give images of all its products",
        ),
        (["bolt"], [], ["nut"], "no images of pin, and the old checkpoint no features: give images of all"),
    ],
)
def test_what_cannot_be_kept_is_refused(new: list[str], replaced: list[str], sampled: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        products_to_keep(["nut", "pin"], new, replaced, sampled)


def test_a_model_that_tells_nothing_apart_is_extended_by_data_that_name_nothing() -> None:
    assert products_to_keep([], [], [], []) == []
    with pytest.raises(ValueError, match="replaces names nut, but the old model knows no product by name"):
        products_to_keep([], ["nut"], ["nut"], [])


def test_there_is_nothing_to_replace_without_an_old_model() -> None:
    with pytest.raises(ValueError, match="replaces names nut, but there is no old model: give its checkpoint as ext"):
        Grad(replaces=["nut"], **TINY)


def test_replaced_products_are_text_and_one_needs_no_list() -> None:
    assert Extending("old.ckpt", "nut", FeatureSample()).replaces == ["nut"]
    with pytest.raises(ValueError, match="replaces has 7, which is not text; put the product's name in quotes"):
        Extending("old.ckpt", [7], FeatureSample())  # type: ignore[list-item]  # as YAML gives it


@pytest.mark.parametrize(
    ("new", "replaced", "sampled", "held"),
    [
        (["bolt", "nut", "pin"], [], ["nut", "pin"], ["nut", "pin"]),
        (["bolt", "nut", "pin"], ["pin"], ["nut", "pin"], ["nut"]),
        (["nut", "pin"], ["pin"], ["nut", "pin"], ["nut"]),
        (["nut", "pin"], [], ["nut", "pin"], []),
        (["bolt", "nut", "pin"], [], ["nut"], []),
        (["nut", "pin"], ["nut", "pin"], ["nut", "pin"], []),
    ],
    ids=["all", "one changed", "only changes", "nothing new", "no features of one", "all changed"],
)
def test_products_with_images_are_held_while_there_is_something_else_to_learn(
    new: list[str], replaced: list[str], sampled: list[str], held: list[str]
) -> None:
    assert products_to_hold(["nut", "pin"], new, replaced, sampled) == held


@pytest.fixture
def sample() -> FeatureSample:
    """Many rows of zeros of one product, two rows of ones of the other."""
    sample = FeatureSample()
    sample.load({"nut": torch.zeros(90, 4).half(), "pin": torch.ones(2, 4).half()}, 4)
    return sample


def test_products_are_replayed_equally_often(sample: FeatureSample) -> None:
    torch.manual_seed(0)
    batch = sample.draw(["nut", "pin"], 400)
    assert batch.features.mean() == pytest.approx(0.5, abs=0.1)
    assert [row.bool().any().item() for row in batch.features] == [name == "pin" for name in batch.category or ()]
    assert sum(len(part.features) for part in sample.batches(["nut", "pin"])) == 92


def test_an_export_leaves_the_features_out_and_a_copy_has_them(sample: FeatureSample) -> None:
    assert not pickle.loads(pickle.dumps(sample)).rows  # noqa: S301  # just written
    assert copy.deepcopy(sample).rows.keys() == {"nut", "pin"}


@pytest.mark.parametrize("stored", [[], {"nut": "rows"}, {"nut": torch.zeros(2, 4)}, {"nut": torch.zeros(2, 5).half()}])
def test_features_of_anything_else_are_refused(stored: object) -> None:
    with pytest.raises(ValueError, match="it must hold rows of 4 values in float16 for each product"):
        FeatureSample().load(stored, 4)
