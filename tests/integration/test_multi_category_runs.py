# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""MultiCategory through anomalib's command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from command_lines import COMMAND_LINES

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]


def write_image(path: Path, value: float, *, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).normal(value, 6, (48, 48, 3)).clip(0, 255).astype(np.uint8)
    if "crack" in str(path):
        pixels[10:20, 10:20] = 255
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three products with equal file names, one of them without masks."""
    root = tmp_path_factory.mktemp("data") / "shop"
    for index, (product, n_train) in enumerate({"ant": 5, "bee": 9, "cup": 3}.items()):
        for number in range(n_train):
            write_image(root / product / "train/good" / f"{number}.png", 60 + 40 * index, seed=number)
        for number in range(3 + index):
            write_image(root / product / "test/good" / f"{number}.png", 60 + 40 * index, seed=50 + number)
            write_image(root / product / "test/crack" / f"{number}.png", 60 + 40 * index, seed=90 + number)
            if product != "cup":
                mask = np.zeros((48, 48), dtype=np.uint8)
                mask[10:20, 10:20] = 255
                path = root / product / "ground_truth/crack" / f"{number}_mask.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
    return root


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


CATEGORIES = {"all": "all", "[ant, bee]": ["ant", "bee"]}
WRONG = (
    (
        ("--data", "anomalib_grad.data.MultiCategory", "--data.root", "/nowhere"),
        "there is no folder /nowhere; give the folder that holds one folder per category as root",
    ),
    (
        ("--data", "MultiCategory", "--data.root", "shop", "--data.categories", "[ant, bea]"),
        "there is no category 'bea' in shop; the categories there are ant, bee, cup",
    ),
)


@pytest.fixture(scope="module")
def answers(root: Path) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of a command for each of the above, and of a training of Padim."""
    data = ("--data", "anomalib_grad.data.MultiCategory", "--data.root", str(root), "--print_config")
    parsed = [("train", "--model", "Padim", *data, "--data.categories", given) for given in CATEGORIES]
    refused = [("train", "--model", "Grad", "--model.backbone", "grad_tiny", *given) for given, _ in WRONG]
    padim = (
        *("train", "--model", "Padim", "--model.backbone", "resnet18", "--model.pre_trained", "false"),
        *("--data", "anomalib_grad.data.MultiCategory", "--data.root", str(root), "--data.categories", "all"),
        *("--data.num_workers", "0", "--data.train_batch_size", "8", "--data.eval_batch_size", "8"),
        *("--trainer.accelerator", "cpu"),
    )
    printed = run(sys.executable, "-c", COMMAND_LINES, json.dumps([*parsed, *refused, padim]), cwd=root.parent)
    return json.loads(printed.splitlines()[-1])["answers"]


def test_categories_parse_on_the_command_line(answers: list[tuple[int, str, str]]) -> None:
    for (code, printed, _), parsed in zip(answers, CATEGORIES.values(), strict=False):
        assert code == 0
        assert yaml.safe_load(printed)["data"]["init_args"]["categories"] == parsed


def test_the_command_line_says_what_is_wrong_and_nothing_else(answers: list[tuple[int, str, str]]) -> None:
    for (code, _, failed), (_, sentence) in zip(answers[len(CATEGORIES) : -1], WRONG, strict=True):
        assert code != 0
        assert failed.endswith(f"error: {sentence}\n")
        assert "Traceback" not in failed


def test_padim_trains_and_tests_on_all_categories(answers: list[tuple[int, str, str]], root: Path) -> None:
    code, output, failed = answers[-1]
    assert code == 0, failed
    assert "image_AUROC" in output
    assert "pixel_AUROC" in output
    images = root.parent / "results" / "Padim" / "shop" / "v0" / "images"
    written = {str(path.relative_to(images)) for path in images.rglob("*.png")}
    expected = {f"{path.parents[2].name}/test/{path.parent.name}/{path.name}" for path in root.glob("*/test/*/*.png")}
    assert written == expected
    assert len(written) == 24
