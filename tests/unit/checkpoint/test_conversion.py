# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Whole models from the authors' files to anomalib checkpoints and back."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from anomalib.engine import Engine

from anomalib_grad.checkpoint.__main__ import main
from anomalib_grad.checkpoint.from_authors import save_model
from anomalib_grad.checkpoint.keys import backbone_to_authors_key
from anomalib_grad.data import MultiCategory
from anomalib_grad.lightning_model import Grad
from anomalib_grad.torch_model import GradModel
from authors_files import configuration, head_tensors, randomise, save
from helpers import TINY, tiny

SIZE = (64, 64)
OFFICIAL_HEAD = Path(__file__).parents[2] / "golden/data/official_crad_head_checkpoint.pth.tar"


class Authors(NamedTuple):
    model: GradModel
    file: Path


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authors]:
    """A model of random weights, and the file that the authors' trainer would write of it."""
    folder = tmp_path_factory.mktemp("authors")
    model = GradModel("tf_efficientnet_b4", pre_trained=False, image_size=SIZE, fusion="small", num_blocks=1).eval()
    randomise(model.head)
    state = {
        f"module.backbone.{backbone_to_authors_key(key)}": tensor
        for key, tensor in model.backbone.network.state_dict().items()
    }
    unused = {"_conv_head.weight": torch.ones(3), "_blocks.31._bn2.weight": torch.ones(448), "_fc.bias": torch.ones(9)}
    state |= {f"module.backbone.{key}": tensor for key, tensor in unused.items()}
    state |= head_tensors(model.head)
    yield Authors(model, save(folder / "ckpt_best.pth.tar", state, configuration([56, 160], (8, 8))))
    shutil.rmtree(folder)


def predictions(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        output = model.eval()(images)
    return output.pred_score, output.anomaly_map


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    images = torch.randn(2, 3, *SIZE)
    for left, right in zip(predictions(one, images), predictions(other, images), strict=True):
        assert left.abs().max() > 0
        assert torch.equal(left, right)


def test_whole_file_converts_without_arguments_or_network(tmp_path, authors, no_network, capsys):
    target = tmp_path / "out.ckpt"
    assert main(["convert", str(authors.file), str(target)]) == 0
    assert "no thresholds yet" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [target]

    grad = Grad.load_from_checkpoint(target)
    assert_same(grad.model, authors.model)
    assert grad.model.head.mse_threshold.item() == 10.0
    expected = {**authors.model.configuration, "backbone": "tf_efficientnet_b4.aa_in1k"}
    assert grad.model.configuration == expected
    assert torch.isnan(grad.post_processor.image_threshold)

    written = torch.load(target, weights_only=True)
    assert {"grad_configuration", "anomalib_pre_processor_config", "anomalib_post_processor_config"} <= written.keys()
    assert {"pytorch-lightning_version", "epoch", "global_step", "hyper_parameters"} <= written.keys()
    assert written["hyper_parameters"]["fusion"] == "small"


def test_there_and_back_is_exact(tmp_path, authors, capsys):
    ours, theirs, again = tmp_path / "ours.ckpt", tmp_path / "theirs.pth.tar", tmp_path / "again.ckpt"
    assert main(["convert", str(authors.file), str(ours)]) == 0
    assert main(["to-authors", str(ours), str(theirs)]) == 0
    assert "differs" not in capsys.readouterr().out
    before = torch.load(ours, weights_only=True)["state_dict"]
    written = torch.load(theirs, weights_only=True)["state_dict"]
    original = head_tensors(authors.model.head)
    assert {key for key in written if key.startswith("module.reconstruction.")} == original.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in original.items())
    assert main(["convert", str(theirs), str(again)]) == 0
    after = torch.load(again, weights_only=True)["state_dict"]
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) or torch.isnan(before[key]).all() for key in before)


def test_other_backbones_return_with_their_threshold(tmp_path, capsys):
    grad = Grad(**tiny(mse_threshold=0.3, layers=["blocks.1", "blocks.2"]))
    randomise(grad.model.head)
    ours, theirs, again = tmp_path / "ours.ckpt", tmp_path / "theirs.pth.tar", tmp_path / "again.ckpt"
    save_model(grad, ours)
    assert main(["to-authors", str(ours), str(theirs)]) == 0
    notes = capsys.readouterr().out
    for different in ("mse_threshold is 0.3", "smoothing_window is 5", "score_window is 8", "the backbone is"):
        assert different in notes
    assert main(["convert", str(theirs), str(again)]) == 0
    returned = Grad.load_from_checkpoint(again).eval().model
    assert returned.backbone.layers == ["blocks.1", "blocks.2"]
    features = torch.randn(2, grad.model.backbone.channels, *grad.model.backbone.feature_size)
    assert torch.equal(returned.head(features).refined, grad.model.head.eval()(features).refined)
    images = torch.randn(2, 3, *SIZE)
    assert torch.equal(returned.backbone(images), grad.model.backbone(images))


def test_head_without_its_backbone_asks_for_one(tmp_path, capsys):
    target = tmp_path / "out.ckpt"
    assert main(["convert", str(OFFICIAL_HEAD), str(target)]) == 1
    assert "6 of the" in (error := capsys.readouterr().err)
    assert "--backbone" in error
    wrong = ["--backbone", "resnet18", "--pre-trained", "false"]
    assert main(["convert", str(OFFICIAL_HEAD), str(target), *wrong]) == 1
    assert "needs 8 feature channels, but backbone 'resnet18' has 384" in capsys.readouterr().err
    assert main(["convert", str(OFFICIAL_HEAD), str(target), "--pre-trained", "false"]) == 1
    assert "--pre-trained requires --backbone" in capsys.readouterr().err
    assert not target.exists()


def test_head_with_a_named_backbone(tmp_path, authors):
    source, weights, target = tmp_path / "head.pth.tar", tmp_path / "weights.pth", tmp_path / "out.ckpt"
    save(source, head_tensors(authors.model.head), configuration([56, 160], (8, 8)))
    trained = Grad(
        backbone="tf_efficientnet_b4", pre_trained=False, image_size=SIZE, fusion="small", method={"num_blocks": 1}
    )
    torch.save(trained.model.backbone.network.state_dict(), weights)
    options = ["--backbone", "tf_efficientnet_b4", "--pre-trained", str(weights)]
    assert main(["convert", str(source), str(target), *options]) == 0
    loaded = Grad.load_from_checkpoint(target).model
    images = torch.randn(2, 3, *SIZE)
    assert torch.equal(loaded.backbone(images), trained.model.backbone(images))
    assert torch.equal(loaded.head.state_dict()["fusion.recover.weight"], authors.model.head.fusion.recover.weight)


def test_only_trained_models_of_grad_go_to_the_authors(tmp_path, authors, capsys):
    target = tmp_path / "out.pth.tar"
    assert main(["to-authors", str(authors.file), str(target)]) == 1
    assert "a checkpoint of Grad is expected" in capsys.readouterr().err
    untrained = tmp_path / "untrained.ckpt"
    save_model(Grad(**TINY), untrained)
    assert main(["to-authors", str(untrained), str(target)]) == 1
    assert "never trained" in capsys.readouterr().err
    assert not target.exists()


def test_converted_model_gets_its_thresholds_as_the_command_says(tmp_path, authors, shop):
    target, validated = tmp_path / "out.ckpt", tmp_path / "validated.ckpt"
    assert main(["convert", str(authors.file), str(target)]) == 0
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1)
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0, seed=0)
    engine.validate(Grad.load_from_checkpoint(target), datamodule=data)
    engine.trainer.save_checkpoint(validated)
    post_processor = Grad.load_from_checkpoint(validated).post_processor
    assert post_processor.categories == ["nut", "pin"]
    assert all(post_processor.category_threshold(name) > 0 for name in ("nut", "pin"))
