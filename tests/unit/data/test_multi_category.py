# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""MultiCategory reads, splits and batches the images of many products."""

import copy
import logging
import pickle
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib import TaskType
from anomalib.data import BTech, Folder, MVTecAD
from anomalib.metrics import AUROC
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf
from torchvision.transforms.v2 import Compose, Resize

from anomalib_grad.data import CategoryImageBatch, MultiCategory
from anomalib_grad.report import DistinctImageVisualizer
from helpers import write_category

NO_WORKERS = {"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4}


def prepared(**arguments: object) -> MultiCategory:
    datamodule = MultiCategory(**{**NO_WORKERS, **arguments})
    datamodule.setup()
    return datamodule


def test_all_categories_are_found_and_the_other_folders_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        datamodule = MultiCategory(root, **NO_WORKERS)
        assert datamodule.categories == ["ant", "bee", "cup"]
    ignored = [message for message in caplog.messages if "ignored" in message]
    assert len(ignored) == 1
    assert "notes" in ignored[0]
    assert datamodule.name == "shop"
    assert datamodule.category == ""


def test_categories_may_be_any_sequence_as_in_the_benchmark_pipeline(root: Path) -> None:
    assert MultiCategory(root=root, categories=OmegaConf.create(["cup", "ant"])).categories == ["ant", "cup"]


def test_every_batch_names_the_category_of_each_image(root: Path) -> None:
    datamodule = prepared(root=root, categories=["cup", "bee", "ant"])
    for loader, count in ((datamodule.train_dataloader(), 11), (datamodule.test_dataloader(), 21)):
        seen = 0
        for batch in loader:
            assert isinstance(batch, CategoryImageBatch)
            assert batch.category == [Path(path).parents[2].name for path in batch.image_path]
            seen += len(batch)
        assert seen == count


def test_masks_are_paired_by_name(root: Path) -> None:
    # Sorted order, in which anomalib pairs, puts 10_mask before 1_mask but 1 before 10.
    with pytest.raises(Exception, match="Mismatch"):
        MVTecAD(root, "ant").setup()
    samples = prepared(root=root, categories=["ant"]).test_data.samples
    masked = samples[samples["mask_path"] != ""]
    assert len(masked) == 11
    assert all(Path(row.mask_path).stem == f"{Path(row.image_path).stem}_mask" for row in masked.itertuples())


def test_no_batch_mixes_images_with_and_without_masks(root: Path) -> None:
    datamodule = prepared(root=root)
    assert datamodule.task == TaskType.SEGMENTATION
    masked = 0
    metric = AUROC(fields=["anomaly_map", "gt_mask"], strict=False)
    for batch in datamodule.test_dataloader():
        without = {name == "cup" for name in batch.category}
        assert without == {batch.gt_mask is None}
        assert batch.gt_label is not None
        batch.anomaly_map = torch.zeros(batch.image.shape[0], *batch.image.shape[-2:])
        if batch.gt_mask is not None:
            masked += int(batch.gt_mask.flatten(1).any(dim=1).sum())
            batch.anomaly_map = batch.gt_mask.float()
        metric.update(batch)
    assert masked == 13
    assert metric.compute() == 1.0


def test_its_test_loader_is_taken_for_predictions(root: Path) -> None:
    class Names(LightningModule):
        def predict_step(self, batch: CategoryImageBatch) -> list[str]:
            return batch.image_path

    data = MultiCategory(root=root, eval_batch_size=2, num_workers=0)
    data.setup()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    batches = trainer.predict(Names(), dataloaders=data.test_dataloader())
    assert sorted(chain.from_iterable(batches)) == sorted(data.test_data.samples["image_path"])


@pytest.mark.parametrize("mode", ["from_test", "from_train", "same_as_test"])
def test_each_category_is_split_as_it_would_be_alone(root: Path, mode: str) -> None:
    datamodule = prepared(root=root, categories=["bee"], val_split_mode=mode, val_split_ratio=0.5, seed=3)
    joined = prepared(root=root, val_split_mode=mode, val_split_ratio=0.5, seed=3)
    alone = MVTecAD(root, "bee", val_split_mode=mode, val_split_ratio=0.5, seed=3, num_workers=0)
    alone.setup()
    for subset in ("train_data", "val_data", "test_data"):
        expected = list(getattr(alone, subset).samples["image_path"])
        assert list(getattr(datamodule, subset).samples["image_path"]) == expected
        samples = getattr(joined, subset).samples
        assert list(samples.loc[samples["category"] == "bee", "image_path"]) == expected


def test_splits_repeat_without_a_seed_of_the_users(root: Path) -> None:
    splits = [prepared(root=root, val_split_mode="from_test").val_data.samples["image_path"] for _ in range(2)]
    assert list(splits[0]) == list(splits[1])


def test_items_equal_those_of_anomalib(root: Path) -> None:
    alone = MVTecAD(root, "bee", num_workers=0)
    alone.setup()
    joined = prepared(root=root, categories=["bee"])
    for ours, theirs in zip(joined.test_data, alone.test_data, strict=False):
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.gt_mask, theirs.gt_mask)
        assert ours.gt_label == theirs.gt_label


def test_images_of_different_sizes_are_collated(root: Path) -> None:
    batch = next(iter(prepared(root=root, categories=["ant", "bee"], eval_batch_size=18).test_dataloader()))
    assert {tuple(batch.image.shape[-2:]), tuple(batch.gt_mask.shape[-2:])} == {(36, 64)}
    assert set(batch.category) == {"ant", "bee"}


def test_augmentations_and_the_models_resize_reach_every_category(root: Path) -> None:
    class Trainer:
        class model:  # noqa: N801
            class pre_processor:  # noqa: N801
                transform = Compose([Resize((20, 24))])

    datamodule = MultiCategory(root, **NO_WORKERS)
    datamodule.trainer = Trainer()
    datamodule.setup()
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
        assert {tuple(batch.image.shape[-2:]) for batch in loader} == {(20, 24)}
    augmented = prepared(root=root, train_augmentations=Resize((10, 10)))
    assert augmented.train_data[0].image.shape == (3, 10, 10)
    assert augmented.test_data[0].image.shape == (3, 40, 48)


def test_datamodules_of_different_classes_can_be_joined(root: Path, product: Callable[..., Path]) -> None:
    own = product(root / "own" / "dog", good=1, defects=3)
    datamodule = prepared(
        datamodules=[
            MVTecAD(root, "bee", test_augmentations=Resize((16, 16))),
            Folder("dog", "train/good", own, "test/crack", "test/good", "ground_truth", val_split_mode="same_as_test"),
        ],
    )
    assert datamodule.categories == ["bee", "dog"]
    assert datamodule.name == "shop"
    shapes = {datamodule.test_data[i].category: datamodule.test_data[i].image.shape[-2:] for i in range(9)}
    assert shapes == {"bee": (16, 16), "dog": (40, 48)}
    named = MultiCategory(datamodules={"a": MVTecAD(root, "bee"), "b": MVTecAD(root, "bee")}, **NO_WORKERS)
    assert named.categories == ["a", "b"]


def test_folders_with_their_own_layout(tmp_path: Path, product: Callable[..., Path]) -> None:
    for name in ("nut", "bolt"):
        source = product(tmp_path / "source" / name, train=6, good=0)
        (tmp_path / "parts" / name).mkdir(parents=True)
        (source / "train" / "good").rename(tmp_path / "parts" / name / "ok")
        (source / "test" / "crack").rename(tmp_path / "parts" / name / "bad")
        if name == "nut":
            (source / "ground_truth" / "crack").rename(tmp_path / "parts" / name / "mask")
    datamodule = prepared(
        root=tmp_path / "parts",
        dataset="Folder",
        dataset_args={"normal_dir": "ok", "abnormal_dir": "bad", "mask_dir": "mask"},
        seed=0,
    )
    assert datamodule.categories == ["bolt", "nut"]
    samples = datamodule.test_data.samples
    assert set(samples.loc[samples["has_mask"], "category"]) == {"nut"}
    assert set(samples["category"]) == {"bolt", "nut"}


def test_btech_layout_is_discovered(tmp_path: Path) -> None:
    (tmp_path / "01" / "train" / "ok").mkdir(parents=True)
    datamodule = MultiCategory(tmp_path, dataset="BTech", **NO_WORKERS)
    assert [type(part) for part in datamodule.datamodules.values()] == [BTech]


def test_balanced_training_draws_every_category_equally_often(root: Path) -> None:
    datamodule = prepared(root=root, balanced=True, seed=1, train_batch_size=11)
    loader = datamodule.train_dataloader()
    drawn = []
    for epoch in range(60):
        loader.sampler.set_epoch(epoch)
        drawn += [name for batch in loader for name in batch.category]
    assert drawn[:11] == next(iter(datamodule.train_dataloader())).category  # a seeded loader starts alike
    assert len(drawn) == 660
    assert all(abs(drawn.count(name) / 660 - 1 / 3) < 0.06 for name in datamodule.categories)


def test_copies_workers_and_subsets(root: Path) -> None:
    datamodule = prepared(root=root, num_workers=2)
    assert sum(len(batch) for batch in datamodule.test_dataloader()) == 21
    loader = datamodule.test_dataloader()
    revived, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))  # noqa: S301  # as for spawned workers
    assert torch.equal(collate([revived[5]]).image[0], copy.deepcopy(datamodule.test_data)[5].image)
    assert pickle.loads(pickle.dumps(datamodule)).categories == datamodule.categories  # noqa: S301
    both = datamodule.train_data + datamodule.test_data
    assert len(both) == 32
    picked = both.subsample([0, 31])
    assert [Path(item.image_path).parents[2].name == item.category for item in (picked[0], picked[1])] == [True, True]


def test_any_script_names_a_category(root: Path) -> None:
    (root / "bee").rename(root / "部品\u3000é")
    assert "部品\u3000é" in prepared(root=root).categories


def test_result_images_that_would_overwrite_each_other_are_reported(
    root: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def warned(visualizer: ImageVisualizer, name: str) -> bool:
        caplog.clear()
        datamodule = MultiCategory(root, **NO_WORKERS)
        datamodule.trainer, datamodule.name = SimpleNamespace(callbacks=[visualizer]), name
        datamodule.setup()
        return "result images will overwrite one another" in caplog.text

    assert not warned(ImageVisualizer(), "shop")
    assert warned(ImageVisualizer(), "elsewhere")
    assert not warned(DistinctImageVisualizer(), "elsewhere")


def test_without_validation_split_there_is_no_validation_loader(root: Path) -> None:
    assert prepared(root=root, val_split_mode="none").val_dataloader() == []


def test_images_are_read_at_the_models_size_and_masks_reduced_as_torchvision_does(tmp_path: Path) -> None:
    data = prepared(root=write_category(tmp_path / "shop/large", side=300).parent)
    resize = Resize((64, 48), antialias=True)
    index = int((data.test_data.samples["mask_path"] != "").to_numpy().argmax())
    full = data.test_data[index]
    data.test_data.augmentations = resize
    small = data.test_data[index]
    torch.testing.assert_close(255 * small.image, 255 * resize(full.image), rtol=0, atol=0.5 + 1e-3)
    assert torch.equal(small.gt_mask, resize(full.gt_mask))
    assert small.gt_mask.any()
