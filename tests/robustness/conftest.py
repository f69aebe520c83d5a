# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A trained and exported model, a whole checkpoint, and a folder of files of every kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from anomalib.engine import Engine

from anomalib_grad.checkpoint.from_authors import save_model
from anomalib_grad.data import MultiCategory
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.lightning_model import Grad
from anomalib_grad.thresholds import PerCategoryPostProcessor
from bad_images import Variant, corpus
from helpers import TINY, tiny

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


class Deployed(NamedTuple):
    """A model of nuts and pins whose scores are raw, so that no range hides a difference."""

    model: Grad
    file: Path
    inferencer: CategoryOpenVINOInferencer


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, shop: Path) -> Iterator[Deployed]:
    """A model in process and its OpenVINO export."""
    folder = tmp_path_factory.mktemp("deployed")
    model = Grad(
        **tiny(backbone="grad_tiny", max_epochs=1), post_processor=PerCategoryPostProcessor(enable_normalization=False)
    )
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # OpenVINO's cache
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet)
        engine.fit(model, datamodule=data)
        file = model.to_openvino(folder)
        yield Deployed(model.eval(), file, CategoryOpenVINOInferencer(file, device="CPU", config=EXACT))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Variant]]:
    """The corpus on disk: path and variant by name. Not to be changed by tests."""
    folder = tmp_path_factory.mktemp("corpus")
    written = {}
    for variant in corpus():
        path = folder / variant.name
        path.write_bytes(variant.content)
        written[variant.name] = (path, variant)
    return written


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model, before any training."""
    path = tmp_path_factory.mktemp("checkpoint") / "whole.ckpt"
    save_model(Grad(**TINY), path)
    return path
