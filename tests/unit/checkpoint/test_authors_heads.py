# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Heads of all kinds are recognised from the shapes of their tensors."""

import json
from pathlib import Path

import pytest
import torch

from anomalib_grad.backbone import FrozenBackbone
from anomalib_grad.checkpoint.authors_file import AuthorsCheckpointError
from anomalib_grad.checkpoint.authors_model import load_authors_head
from anomalib_grad.checkpoint.keys import (
    backbone_from_authors_key,
    backbone_to_authors_key,
    last_block_of_layer,
    layer_of_block,
)
from anomalib_grad.components.head import GradHead
from authors_files import configuration, edit_pickle, head_tensors, randomise, save

SHARED_NAMES = Path(__file__).parents[4] / "shared/golden/efficientnet_b4_timm_state_dict.json"
HEADS = {
    "residual": {"fusion": "residual", "num_blocks": 2},
    "residual, published number of blocks": {"fusion": "residual"},
    "mobile": {"fusion": "mobile", "num_blocks": 2},
    "small": {"fusion": "small", "num_blocks": 3},
    "own width": {"fusion": "mobile", "num_blocks": 2, "hidden_channels": 10},
    "other grids": {"fusion": "small", "num_blocks": 1, "local_resolution": 5, "global_resolution": 3},
    "no blocks": {"fusion": "mobile", "num_blocks": 0},
    "other weights": {"fusion": "small", "num_blocks": 1, "indicator_weight": 0.1, "cosine_weight": 0.6},
}


@pytest.mark.parametrize("arguments", HEADS.values(), ids=HEADS)
def test_every_kind_is_recognised(tmp_path, arguments):
    head = randomise(GradHead(6, (4, 4), **arguments))
    weights = {"mse_lamb": head.indicator_weight, "cos_lamb": head.cosine_weight}
    file = save(tmp_path / "ckpt.pth.tar", head_tensors(head), configuration([2, 4], (4, 4), **weights))
    loaded = load_authors_head(file)
    assert loaded.configuration == head.configuration
    assert loaded.state_dict().keys() == head.state_dict().keys()
    assert all(torch.equal(tensor, head.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    features = torch.randn(2, 6, 4, 4)
    assert torch.equal(loaded(features).refined, head(features).refined)


def test_feature_maps_need_not_be_square(tmp_path):
    head = randomise(GradHead(6, (2, 8), "small", num_blocks=1))
    noted = save(tmp_path / "noted.pth.tar", head_tensors(head), configuration([6], (2, 8)))
    assert load_authors_head(noted).global_representation.map_shape == (6, 2, 8)
    silent = save(tmp_path / "silent.pth.tar", head_tensors(head), [])
    assert load_authors_head(silent, (2, 8)).global_representation.map_shape == (6, 2, 8)
    with pytest.raises(AuthorsCheckpointError, match="do not fit the head"):
        load_authors_head(silent, (3, 8))


def test_size_that_is_not_noted_and_not_square_is_asked_for(tmp_path):
    head = randomise(GradHead(6, (2, 3), "small", num_blocks=1))
    with pytest.raises(AuthorsCheckpointError, match="--image-size"):
        load_authors_head(save(tmp_path / "silent.pth.tar", head_tensors(head), []))


def test_bare_state_dict_without_prefix_of_distributed_training(tmp_path):
    head = randomise(GradHead(6, (4, 4), "small", num_blocks=1))
    path = tmp_path / "state.pth"
    torch.save({key.removeprefix("module."): tensor for key, tensor in head_tensors(head).items()}, path)
    features = torch.randn(2, 6, 4, 4)
    assert torch.equal(load_authors_head(path)(features).refined, head(features).refined)


def test_numpy_1_spelling_of_the_metric(tmp_path):
    head = randomise(GradHead(6, (4, 4), "small", num_blocks=1))
    file = save(tmp_path / "new.pth.tar", head_tensors(head), configuration([6], (4, 4)))
    old = edit_pickle(
        file, tmp_path / "old.pth.tar", lambda data: data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    )
    assert b"numpy.core.multiarray" in old.read_bytes()
    assert load_authors_head(old).configuration == head.configuration


def test_backbone_names_map_one_to_one():
    names = FrozenBackbone("tf_efficientnet_b4", pre_trained=False, image_size=(64, 64)).network.state_dict()
    theirs = [backbone_to_authors_key(name) for name in names]
    assert None not in theirs
    assert len(set(theirs)) == len(names)
    assert [backbone_from_authors_key(name) for name in theirs] == list(names)
    assert [layer_of_block(block) for block in (9, 21, 10)] == ["blocks.2", "blocks.4", None]
    assert [last_block_of_layer(layer) for layer in ("blocks.2", "blocks.4")] == [9, 21]


def test_backbone_names_are_the_authors():
    if not SHARED_NAMES.is_file():
        pytest.skip("the list of the authors' backbone names is not beside this checkout")
    expected = json.loads(SHARED_NAMES.read_text())["official_to_timm"]
    assert {theirs: backbone_from_authors_key(theirs) for theirs in expected} == expected
    assert {ours: backbone_to_authors_key(ours) for ours in expected.values()} == {v: k for k, v in expected.items()}


@pytest.mark.parametrize("name", ["_fc.weight", "_conv_head.weight", "_blocks.32._bn1.weight", "_blocks.0._bn0.weight"])
def test_backbone_names_without_counterpart(name):
    assert backbone_from_authors_key(name) is None
