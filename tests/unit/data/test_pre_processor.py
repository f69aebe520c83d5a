# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The exported resize gives the pixels that training saw."""

from pathlib import Path

import openvino as ov
import pytest
import torch
from torch.nn import functional
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anomalib_grad.data.pre_processor import AntialiasedResize, GradPreProcessor

STATISTICS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


@pytest.mark.parametrize("size", [(256, 256), (900, 700), (301, 2000), (224, 224), (64, 100), (1, 1)])
def test_the_exported_preparation_equals_the_one_of_training_for_any_image_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, *size)
    processor = GradPreProcessor.from_statistics((224, 192), **STATISTICS)
    trained_on = processor.transform(images)
    exported = processor(images)
    assert exported.shape == (2, 3, 224, 192)
    torch.testing.assert_close(exported, trained_on, rtol=0, atol=1e-4)  # torch's positions are rounded


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resize as an ONNX file, of any batch and size."""
    file = tmp_path_factory.mktemp("resize") / "resize.onnx"
    sides = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    resize = AntialiasedResize((224, 192)).eval()
    torch.onnx.export(resize, (torch.rand(2, 3, 50, 60),), file, dynamo=True, dynamic_shapes=sides, verbose=False)
    return file


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 5e-5), ("bf16", 2e-2)])  # bf16 rounds by 4e-3 a step
def test_openvino_sees_the_same_image_whatever_its_size(precision: str, tolerance: float, exported: Path) -> None:
    compiled = ov.Core().compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    torch.manual_seed(0)
    for size in [(900, 700), (301, 2000), (224, 192), (64, 100), (1, 1), (1, 6000), (5000, 1), (231, 190)]:
        images = torch.rand(2, 3, *size)
        expected = functional.interpolate(images, (224, 192), mode="bilinear", antialias=True)
        resized = torch.from_numpy(compiled(images.numpy())[0].copy())
        torch.testing.assert_close(resized, expected, rtol=0, atol=tolerance, msg=lambda text: f"{size}: {text}")  # noqa: B023


def test_resizing_to_the_same_size_changes_nothing() -> None:
    images = torch.rand(1, 3, 40, 30)
    torch.testing.assert_close(AntialiasedResize((40, 30))(images), images)


def test_other_steps_of_a_users_transform_are_kept() -> None:
    images = torch.rand(1, 3, 100, 80)
    transform = Compose([Resize((64, 64), antialias=True), CenterCrop(48), Normalize([0.5] * 3, [0.25] * 3)])
    processor = GradPreProcessor(transform)
    torch.testing.assert_close(processor(images), transform(images), rtol=0, atol=2e-5)
    assert GradPreProcessor()(images) is images


def test_a_checkpoint_brings_back_both_transforms() -> None:
    images = torch.rand(1, 3, 100, 80)
    saved = GradPreProcessor.from_statistics((32, 32), **STATISTICS)
    loaded = GradPreProcessor.from_statistics((64, 64), mean=(0, 0, 0), std=(1, 1, 1))
    loaded.load_checkpoint_config(saved.checkpoint_config())
    torch.testing.assert_close(loaded(images), saved(images))
    torch.testing.assert_close(loaded.transform(images), saved.transform(images))
