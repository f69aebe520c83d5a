# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Eight threads share one model: each image has the result that it has alone."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch

from anomalib_grad.data.read_or_refuse import read_image
from anomalib_grad.deploy import CategoryOpenVINOInferencer

pytestmark = pytest.mark.slow

THREADS, ROUNDS = 8, 6


@pytest.fixture
def images(shop: Path) -> list[Path]:
    """An image for each thread, of two products."""
    return sorted(shop.glob("*/test/*/*.png"))[:THREADS]


def at_once(judge: Callable[[Path], np.ndarray], images: list[Path]) -> list[list[np.ndarray]]:
    """Judge each image in a thread of its own, several times, all starting together."""
    start = Barrier(THREADS, timeout=60)

    def repeatedly(image: Path) -> list[np.ndarray]:
        start.wait()
        return [judge(image) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(repeatedly, images, timeout=120))


def assert_same(judge: Callable[[Path], np.ndarray], images: list[Path]) -> None:
    alone = [judge(image) for image in images]
    assert len({value.tobytes() for value in alone}) == THREADS  # a mix-up would be seen
    for expected, results in zip(alone, at_once(judge, images), strict=True):
        for result in results:
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_one_inferencer(deployed, images: list[Path]) -> None:
    assert_same(lambda image: deployed.inferencer.predict(image).anomaly_map.copy(), images)


def test_one_inferencer_that_is_told_and_recognises_in_turn(
    deployed, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {image: ("nut", "pin", None)[number % 3] for number, image in enumerate(images)}
    fresh = CategoryOpenVINOInferencer(deployed.file, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    compiled: list[object] = []
    compile_model = fresh._compile
    monkeypatch.setattr(fresh, "_compile", lambda model: compiled.append(model) or compile_model(model))

    def judge(image: Path) -> np.ndarray:
        prediction = fresh.predict(image, category=names[image])
        if names[image] is not None:
            assert prediction.explanation == [names[image]]
        return prediction.anomaly_map.copy()

    results = at_once(judge, images)
    assert len(compiled) == 1, "the model that is told, once for all threads"
    for expected, repeated in zip([judge(image) for image in images], results, strict=True):
        for result in repeated:
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_results_stay_when_the_same_thread_goes_on(deployed, images: list[Path]) -> None:
    first = deployed.inferencer.predict(images[0])
    kept = first.anomaly_map.copy()
    deployed.inferencer.predict(images[1])
    np.testing.assert_array_equal(first.anomaly_map, kept)


def test_one_model_in_torch(deployed, images: list[Path]) -> None:
    tensors = {image: read_image(image)[None] for image in images}
    assert_same(lambda image: deployed.model(tensors[image]).anomaly_map.numpy(), images)
    assert torch.is_grad_enabled()


def test_one_model_in_training_mode_as_a_checkpoint_is_loaded(deployed, images: list[Path]) -> None:
    model = copy.deepcopy(deployed.model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {image: read_image(image)[None] for image in images}
    assert_same(lambda image: model(tensors[image]).anomaly_map.numpy(), images)
    assert model.model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_threads_that_export_one_model_at_once_leave_equal_files_and_the_model_as_it_was(
    deployed, tmp_path: Path
) -> None:
    model = copy.deepcopy(deployed.model)
    with ThreadPoolExecutor(2) as threads:
        files = list(threads.map(lambda number: model.to_onnx(tmp_path / str(number)), range(2), timeout=120))
    assert files[0].read_bytes() == files[1].read_bytes()
    for module, original in zip(model.modules(), deployed.model.modules(), strict=True):
        assert vars(module).get("inplace") == vars(original).get("inplace")
        assert "forward" not in vars(module)
