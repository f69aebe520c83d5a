# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Grad by its plain name on anomalib's command line, in fresh processes and without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import pandas as pd
import pytest
import timm
import torch
import yaml
from anomalib.deploy import OpenVINOInferencer
from PIL import Image
from safetensors.torch import save_file

from anomalib_grad.backbone import FrozenBackbone
from command_lines import COMMAND_LINES
from helpers import write_category

pytestmark = pytest.mark.slow

NO_NETWORK = """
import socket

connect = socket.socket.connect

def refuse(*_, **__):
    raise socket.gaierror(-3, "Temporary failure in name resolution")

def connect_locally(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refuse()

socket.getaddrinfo = refuse
socket.socket.connect = connect_locally
"""
"""What a machine without a network answers; ``sitecustomize`` runs it in each process before anything else."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with two categories, weights for the backbone, and no network."""
    folder = tmp_path_factory.mktemp("cli")
    write_category(folder / "data/bottle")
    write_category(folder / "data/cookie")
    network = FrozenBackbone("grad_tiny", pre_trained=False).network
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(NO_NETWORK)
    return folder


def anomalib(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return start(folder, Path(sys.executable).with_name("anomalib"), *arguments)


def start(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "site"),
        "HF_HOME": str(folder / "empty_cache"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "200",
    }
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def answers(folder: Path, *commands: tuple[str, ...]) -> list[tuple[int, str]]:
    """Run commands in one process; returns the exit code of each and what it printed."""
    done = start(folder, sys.executable, "-c", COMMAND_LINES, json.dumps(commands))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return [(code, out + errors) for code, out, errors in json.loads(done.stdout.splitlines()[-1])["answers"]]


def succeed(folder: Path, *arguments: str | Path) -> str:
    done = anomalib(folder, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The README's command; returns the folder of its results."""
    printed = succeed(
        folder,
        *("train", "--model", "Grad", "--model.backbone", "grad_tiny", "--model.image_size", "[64, 64]"),
        *("--model.layers", "[adapter8, adapter16]", "--model.pre_trained", "weights.safetensors"),
        *("--model.fusion", "small", "--model.method.num_blocks", "1"),
        *("--data", "MVTecAD", "--data.root", "data", "--data.category", "bottle"),
        *("--trainer.max_epochs", "1", "--default_root_dir", "results"),
    )
    assert "image_AUROC" in printed
    assert "pixel_AUROC" in printed
    assert "1000 epochs" not in printed
    (folder / "weights.safetensors").unlink()
    return folder / "results/Grad/MVTecAD/bottle/v0"


MODEL = ("--model", "Grad")
"""No argument of the trained model, and a backbone from the network, of which there is none: the checkpoint has all."""


MANY = "many/Grad/data/v0/weights/lightning/model.ckpt"
"""The checkpoint of the model of many categories."""


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Path:
    """A configuration of the kind that the recipes have."""
    torch.manual_seed(0)
    save_file(timm.create_model("mobilenetv2_050", pretrained=False).state_dict(), folder / "small.safetensors")
    model = {
        "backbone": "mobilenetv2_050",
        "pre_trained": "small.safetensors",
        "recipe": "plus",
        "method": {"num_blocks": 1},
        "image_size": [64, 64],
        "training": {"steps": 1},
    }
    recipe = {
        "model": {"class_path": "Grad", "init_args": model},
        "data": {"class_path": "MultiCategory", "init_args": {"root": "data", "num_workers": 0}},
        "default_root_dir": "many",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def checkpoint(trained: Path) -> tuple[str, str]:
    return "--ckpt_path", str(trained / "weights/lightning/model.ckpt")


def test_train_writes_checkpoint_and_heatmaps(trained: Path, folder: Path) -> None:
    assert (trained / "weights/lightning/model.ckpt").is_file()
    heatmaps = {str(path.relative_to(trained / "images")) for path in (trained / "images").rglob("*.png")}
    originals = {path.relative_to(folder / "data/bottle/test") for path in (folder / "data/bottle/test").rglob("*.png")}
    assert heatmaps == set(map(str, originals))
    with Image.open(trained / "images/spot/000.png") as heatmap:
        assert np.asarray(heatmap.convert("RGB")).std() > 0


@pytest.fixture(scope="module")
def continued(trained: Path, recipe: Path, folder: Path) -> list[tuple[int, str]]:
    """A prediction, an export, and a test of another configuration, from the checkpoint.

    Then a training by a recipe, a prediction from its checkpoint, a training for which there are no weights, and
    commands on files that are not there.
    """
    data = ("--data", "MVTecAD", "--data.root", "data", "--data.category", "bottle")
    return answers(
        folder,
        (
            *("predict", *MODEL, "--data", "data/bottle/test/spot", *checkpoint(trained)),
            *("--default_root_dir", "predictions"),
        ),
        (
            *("export", *MODEL, *data, "--data.num_workers", "0", "--export_type", "openvino"),
            *("--compression_type", "INT8_PTQ", *checkpoint(trained), "--default_root_dir", "exported"),
        ),
        (
            *("test", *MODEL, "--model.method.num_blocks", "2", *data, *checkpoint(trained)),
            *("--default_root_dir", "refused"),
        ),
        ("train", "--config", str(recipe)),
        (
            *("predict", *MODEL, "--model.category", "bottel", "--data", "data/bottle/test/spot"),
            *("--ckpt_path", str(folder / MANY), "--default_root_dir", "named"),
        ),
        ("train", *MODEL, *data, "--default_root_dir", "offline"),
        ("train", *MODEL, *data, "--model.pre_trained", "nowhere.safetensors", "--default_root_dir", "refused"),
        ("test", *MODEL, *data, "--ckpt_path", "nowhere.ckpt", "--default_root_dir", "refused"),
        ("predict", *MODEL, "--data", "data/bottle", "--ckpt_path", "nowhere.ckpt", "--default_root_dir", "refused"),
        ("export", *MODEL, "--export_type", "onnx", "--ckpt_path", "nowhere.ckpt", "--default_root_dir", "refused"),
    )


def test_predict_on_a_folder_takes_the_weights_from_the_checkpoint(
    continued: list[tuple[int, str]], folder: Path
) -> None:
    code, printed = continued[0]
    assert code == 0, printed
    written = [path.name for path in sorted((folder / "predictions").rglob("*.png"))]
    assert written == ["000.png", "001.png"]
    (table,) = (folder / "predictions").rglob("predictions.csv")
    assert [Path(path).name for path in pd.read_csv(table)["path"]] == written
    assert pd.read_csv(table)["pred_score"].between(0, 1).all()


def test_export_takes_the_weights_from_the_checkpoint_and_quantises_with_the_data(
    continued: list[tuple[int, str]], folder: Path
) -> None:
    code, printed = continued[1]
    assert code == 0, printed
    (exported,) = (folder / "exported").rglob("model.xml")
    assert "FakeQuantize" in {node.get_type_name() for node in ov.Core().read_model(exported).get_ops()}
    prediction = OpenVINOInferencer(exported).predict(folder / "data/bottle/test/spot/000.png")
    assert 0 <= float(np.asarray(prediction.pred_score).squeeze()) <= 1


def test_another_configuration_is_refused_by_field(continued: list[tuple[int, str]]) -> None:
    code, printed = continued[2]
    assert code != 0
    assert "num_blocks is 1 in the checkpoint but 2 in this model" in one_line(printed)


def test_many_categories_from_a_file_of_the_recipes_kind_and_one_named_at_prediction(
    continued: list[tuple[int, str]], folder: Path
) -> None:
    (trained, printed), (refused, failed) = continued[3:5]
    assert trained == 0, printed
    assert "Setting it to 1000" not in printed
    for name in ("bottle/image_AUROC", "cookie/pixel_AUPRO", "mean/image_F1Max"):
        assert name in printed
    stored = torch.load(folder / MANY, weights_only=True)
    assert stored["global_step"] == 2  # two passes at the least
    assert stored["hyper_parameters"]["recipe"] == "plus"
    assert refused != 0
    assert "There is no category 'bottel'; choose one of: bottle, cookie." in one_line(failed)


def test_without_weights_or_network_the_error_is_one_sentence_and_no_traceback(
    continued: list[tuple[int, str]],
) -> None:
    code, printed = continued[5]
    assert code != 0
    sentence = printed.splitlines()[-1]
    assert sentence.startswith("error: no pretrained weights for backbone 'tf_efficientnet_b4.aa_in1k': ")
    assert "cannot be reached" in sentence
    assert "pre_trained=/path/to/weights" in sentence
    assert sentence.count(". ") == 0
    assert "Traceback" not in printed


def test_files_that_are_not_there_are_named_in_one_sentence(continued: list[tuple[int, str]]) -> None:
    commands = continued[6:]
    for (code, printed), name in zip(commands, ("nowhere.safetensors", *["nowhere.ckpt"] * 3), strict=True):
        assert code != 0
        assert printed.splitlines()[-1].startswith("error: ")
        assert f"{name}" in printed.splitlines()[-1]
        assert "Traceback" not in printed


def one_line(printed: str) -> str:
    return " ".join(printed.replace("│", " ").split())
