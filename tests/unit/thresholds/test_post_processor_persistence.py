# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

"""Statistics survive Lightning's checkpoints, exports, and validation that is split over processes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from anomalib_grad.data import CategoryImageBatch, CategoryImageItem
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor
from whole_run import Process

STATISTICS = ("image_threshold", "pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")


def items(count: int = 4) -> list[CategoryImageItem]:
    """Two products of random images, of which every second one is anomalous."""
    generator = torch.Generator().manual_seed(0)
    return [
        CategoryImageItem(
            image=torch.rand(3, 64, 64, generator=generator) * (1 + 3 * (name == "cap")) / 4,
            gt_label=torch.tensor(i % 2),
            gt_mask=torch.arange(64 * 64).reshape(64, 64) < 200 * (i % 2),
            category=name,
        )
        for name in ("bolt", "cap")
        for i in range(count)
    ]


def test_real_training_and_checkpoint(tmp_path: Path) -> None:
    from anomalib.models import Padim  # noqa: PLC0415  # takes seconds, and the processes below do not need it

    model = Padim(
        backbone="resnet18",
        layers=["layer1"],
        pre_trained=False,
        n_features=4,
        post_processor=PerCategoryPostProcessor(image_sensitivity=0.4),
        evaluator=False,
        visualizer=False,
    )
    loader = DataLoader(items(), batch_size=3, collate_fn=CategoryImageBatch.collate)
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=0,  # as anomalib sets it for this model
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, loader, loader)
    fitted = model.post_processor
    assert fitted.categories == ["bolt", "cap"]
    assert fitted.category_threshold("bolt") != fitted.category_threshold("cap")
    fitted.recogniser.fit(torch.rand(8, 5), torch.arange(8) % 2, 2)
    trainer.save_checkpoint(tmp_path / "model.ckpt")

    loaded = Padim.load_from_checkpoint(
        tmp_path / "model.ckpt",
        strict=True,
        weights_only=True,
        post_processor=PerCategoryPostProcessor(),
        evaluator=False,
        visualizer=False,
    )
    assert loaded.post_processor.categories == ["bolt", "cap"]
    assert loaded.post_processor.image_sensitivity == 0.4
    assert loaded.post_processor.state_dict().keys() == fitted.state_dict().keys()
    for name, value in fitted.state_dict().items():
        assert torch.equal(loaded.post_processor.state_dict()[name], value), name

    before = [batch.pred_score for batch in trainer.predict(model, loader)]
    after = [batch.pred_score for batch in trainer.predict(loaded, loader)]
    torch.testing.assert_close(after, before)


def fitted_by_hand() -> PerCategoryPostProcessor:
    post_processor = PerCategoryPostProcessor(image_sensitivity=0.45)
    post_processor.set_categories(["bolt", "cap"])
    for name, bolt, cap, pooled in (
        ("image_threshold", 2.0, 20.0, 11.0),
        ("pixel_threshold", 1.0, float("nan"), 9.0),
        ("image_min", 0.5, 8.0, 0.5),
        ("image_max", 4.0, 30.0, 30.0),
        ("pixel_min", 0.0, 4.0, 0.0),
        ("pixel_max", 4.0, 30.0, 30.0),
    ):
        getattr(post_processor, "category_" + name).copy_(torch.tensor([bolt, cap]))
        getattr(post_processor, name if name.endswith(("min", "max")) else "_" + name).copy_(torch.tensor(pooled))
    return post_processor.eval()


class Exported(nn.Module):
    """What a model exports: scores, maps, and the category that it recognised."""

    def __init__(self, post_processor: PostProcessor) -> None:
        super().__init__()
        self.post_processor = post_processor
        self.eval()

    def forward(self, score: torch.Tensor, anomaly_map: torch.Tensor, features: torch.Tensor) -> InferenceBatch:
        predictions = InferenceBatch(pred_score=score, anomaly_map=anomaly_map)
        return self.post_processor(predictions, self.post_processor.recogniser(features))


@pytest.mark.parametrize("flags", [{}, {"enable_normalization": False}])
def test_openvino_recognises_and_judges_like_torch(tmp_path: Path, flags: dict[str, bool]) -> None:
    post_processor = fitted_by_hand()
    for flag, value in flags.items():
        setattr(post_processor, flag, value)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 6, generator=generator)
    features[10:] += 20
    post_processor.recogniser.fit(features, torch.arange(20) // 10, 2)
    features[-1] += 500  # an unseen product
    inputs = (
        torch.linspace(0, 30, 20),
        40 * torch.rand(20, 1, 8, 8, generator=generator),
        features,
    )
    batch = torch.export.Dim("batch")
    path = tmp_path / "post_processor.onnx"
    torch.onnx.export(
        Exported(post_processor),
        tuple(value[:2] for value in inputs),
        path,
        dynamo=True,
        dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
    )
    compiled = ov.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert post_processor.recogniser(features).unique().tolist() == [0, 1, 2]
    for size in (20, 1):
        part = [value[-size:] for value in inputs]
        expected = Exported(post_processor)(*part)
        actual = list(compiled([value.numpy() for value in part]).values())
        assert len(actual) == len(expected)
        for ours, theirs in zip(actual, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


def test_not_fitted_exports_as_in_process(tmp_path: Path) -> None:
    mine = PerCategoryPostProcessor().eval()
    for name in STATISTICS:
        target = name if name.endswith(("min", "max")) else "_" + name
        value = getattr(fitted_by_hand(), target)
        getattr(mine, target).copy_(value)
    inputs = (torch.tensor([1.0, 20.0]), 30 * torch.rand(2, 1, 8, 8), torch.rand(2, 6))
    path = tmp_path / "post_processor.onnx"
    torch.onnx.export(Exported(mine), inputs, path, dynamo=True)
    expected = mine(InferenceBatch(pred_score=inputs[0], anomaly_map=inputs[1]))
    feed = [value.numpy() for value in inputs[:2]]
    actual = ov.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feed)
    for ours, theirs in zip(actual.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


def test_fit_inside_inference_mode_can_be_loaded_over_later() -> None:
    post_processor = PerCategoryPostProcessor()
    with torch.inference_mode():
        post_processor.set_categories(["bolt", "cap"])
        post_processor.recogniser.fit(torch.rand(4, 3), torch.tensor([0, 0, 1, 1]), 2)
    post_processor.load_state_dict(post_processor.state_dict())
    assert not any(buffer.is_inference() for buffer in post_processor.buffers())


def validation_batches() -> list[CategoryImageBatch]:
    """Batches of one product each: the last ones, of product "cap", have masks, those of "bolt" have none."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for name, size in (("bolt", 3), ("bolt", 2), ("bolt", 4), ("cap", 3), ("cap", 5)):
        score = torch.rand(size, generator=generator) * (10 if name == "cap" else 1)
        mask = torch.rand(size, 4, 4, generator=generator) < 0.3
        batches.append(
            CategoryImageBatch(
                image=torch.zeros(size, 3, 4, 4),
                gt_label=torch.arange(size) % 2,
                gt_mask=mask if name == "cap" else None,
                pred_score=score,
                anomaly_map=torch.rand(size, 4, 4, generator=generator) * score[:, None, None],
                category=[name] * size,
            )
        )
    return batches


def validate(batches: list[CategoryImageBatch]) -> PerCategoryPostProcessor:
    trainer = SimpleNamespace(sanity_checking=False, datamodule=None)
    post_processor = PerCategoryPostProcessor()
    for batch in batches:
        post_processor.on_validation_batch_end(trainer, None, batch)
    post_processor.on_validation_epoch_end(trainer, None)
    return post_processor


def run_process(rank: int, split: int, folder: Path) -> None:
    """One of two processes: the first takes the first ``split`` batches, the second the others."""
    torch.distributed.init_process_group(
        "gloo", rank=rank, world_size=2, init_method=f"file://{folder}/rendezvous{split}"
    )
    batches = validation_batches()
    post_processor = validate(batches[split:] if rank else batches[:split])
    torch.save((post_processor.categories, post_processor.state_dict()), folder / f"{split}-{rank}.pt")
    torch.distributed.destroy_process_group()


SPLITS = (0, 2, 3, 4)
"""0: the first process has nothing; 3: no product in both, masks in the second only; 2, 4: a product in both."""


def run_splits(rank: int, folder: Path, note: object) -> None:
    for split in SPLITS:
        run_process(rank, split, folder)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    processes = [Process(run_splits, rank, tmp_path, log=tmp_path / f"log{rank}") for rank in range(2)]
    for process in processes:
        process.finish(timeout=240)
    alone = validate(validation_batches())
    assert not alone.category_image_threshold.isnan().any()
    for split in SPLITS:
        for rank in range(2):
            categories, state = torch.load(tmp_path / f"{split}-{rank}.pt")
            assert categories == alone.categories
            for name, value in alone.state_dict().items():
                torch.testing.assert_close(state[name], value, rtol=0, atol=0, equal_nan=True, msg=f"{split} {name}")
