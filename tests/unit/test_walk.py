# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How many files someone reads who follows one image to its verdict, or one batch to its loss."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

import anomalib_grad
from anomalib_grad import Grad
from anomalib_grad.data import CategoryImageBatch
from helpers import tiny

PACKAGE = Path(anomalib_grad.__file__).parent


@pytest.fixture(scope="module", params=["crad", "plus"])
def model(request: pytest.FixtureRequest) -> Grad:
    """A model that tells two products apart."""
    torch.manual_seed(0)
    model = Grad(**tiny(recipe=request.param, layers=None))
    model.post_processor.set_categories(["nut", "pin"])
    features = torch.rand(4, model.model.backbone.channels)
    model.post_processor.recogniser.fit(features, torch.tensor([0, 0, 1, 1]), 2)
    return model


def batch(images: int) -> CategoryImageBatch:
    return CategoryImageBatch(image=torch.rand(images, 3, 64, 64), category=["nut"] * images)


def entered(step: Callable[[], object]) -> list[str]:
    """Files of the package of which a step enters a function; what is done once is done before."""
    step()
    files: set[Path] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            files.add(Path(frame.f_code.co_filename))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(before)
    return sorted(file.relative_to(PACKAGE).as_posix() for file in files if file.is_relative_to(PACKAGE))


def beyond_the_paper(model: Grad, *parts: str) -> set[str]:
    """Files of what ``plus`` adds to the method, each an idea of its own."""
    return {f"components/{part}.py" for part in parts} if model.recipe == "plus" else set()


@torch.inference_mode()
def test_an_image_passes_nine_files(model: Grad) -> None:
    model.eval()
    image, scored = torch.rand(1, 3, 80, 80), batch(1)
    own = beyond_the_paper(model, "whitening", "normal_scale")
    for files in (
        entered(lambda: model(image)),
        entered(lambda: model.post_processor.post_process_batch(model.test_step(scored))),
    ):
        assert own <= set(files)
        assert len(files) - len(own) <= 9, "\n".join(files)


def test_a_training_batch_passes_nine_files(model: Grad, monkeypatch: pytest.MonkeyPatch) -> None:
    model.train()
    monkeypatch.setattr(model, "log", lambda *_, **__: None)  # Lightning takes figures in its loop alone
    images = batch(2)
    files = entered(lambda: model.training_step(images))
    assert beyond_the_paper(model, "whitening", "corruption") <= set(files)
    assert len(files) <= 9, "\n".join(files)
