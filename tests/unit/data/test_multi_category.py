# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

import copy
import logging
import os
import pickle
import shutil
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
from PIL import Image
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


def test_a_category_without_training_images_is_an_error(root: Path) -> None:
    for path in (root / "bee/train/good").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"category 'bee' has no train image in .*bee"):
        prepared(root=root)


def test_a_category_without_test_images_is_tested_on_normal_ones_or_an_error(
    root: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.rmtree(root / "bee/test")
    shutil.rmtree(root / "bee/ground_truth")
    samples = prepared(root=root).test_data.samples
    assert "category 'bee' has no anomalous test image" in caplog.text
    tested = samples[samples["category"] == "bee"]
    assert len(tested) == 1
    assert "/train/good/" in tested["image_path"].iloc[0]
    for path in list((root / "bee/train/good").iterdir())[1:]:
        path.unlink()  # one cannot be shared
    with pytest.raises(
        ValueError, match=r"'bee' has no test image in .*bee; .*test_split_mode='none' to train without"
    ):
        prepared(root=root)


def test_a_missing_mask_and_a_mask_too_many_are_errors(root: Path) -> None:
    (root / "bee/ground_truth/crack/2_mask.png").rename(root / "bee/ground_truth/crack/7_mask.png")
    with pytest.raises(ValueError, match=r"category 'bee': 1 anomalous test images have no mask in .*crack.2.png"):
        prepared(root=root)
    (root / "bee/test/crack/2.png").unlink()
    with pytest.raises(ValueError, match=r"category 'bee': mask .*7_mask.png belongs to no test image"):
        prepared(root=root)


@pytest.mark.parametrize("place", ["train/good", "test/good", "ground_truth/crack"])
def test_a_link_to_nothing_is_named(root: Path, place: str) -> None:
    link = root / "bee" / place / "zzz.png"
    link.symlink_to(root / "gone.png")
    with pytest.raises(
        ValueError, match=rf"category 'bee': {link} is a link to .*gone\.png, which does not exist; repair or remove it"
    ):
        prepared(root=root)


def test_links_to_nothing_are_left_out_and_listed_where_that_is_wanted(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = prepared(root=root)
    image = Path(whole.train_data.samples["image_path"].iloc[0])
    anomalous = whole.test_data.samples[whole.test_data.samples["mask_path"] != ""].iloc[0]
    for path in (image, Path(anomalous["mask_path"])):
        path.unlink()
        path.symlink_to(root / "gone.png")
    with caplog.at_level(logging.WARNING):
        datamodule = prepared(root=root, skip_unreadable=True)
    assert "left out 2 links to files that do not exist:" in caplog.text
    assert f"{image} -> {root / 'gone.png'}" in caplog.text
    for subset, lost in (("train_data", str(image)), ("test_data", anomalous["image_path"])):
        kept = [path for path in getattr(whole, subset).samples["image_path"] if path != lost]
        assert list(getattr(datamodule, subset).samples["image_path"]) == kept


def test_a_category_that_is_a_link_to_nothing_is_named_and_not_left_out(root: Path) -> None:
    (root / "wasp").symlink_to(root / "not mounted")
    with pytest.raises(
        ValueError,
        match=r"wasp is a link to .*not mounted, which does not exist; repair the link, or give categories",
    ):
        prepared(root=root)
    assert prepared(root=root, categories=["bee"]).categories == ["bee"]


def test_a_mask_of_another_size_is_an_error(root: Path) -> None:
    path = root / "bee/ground_truth/crack/1_mask.png"
    Image.new("L", (30, 30)).save(path)
    with pytest.raises(ValueError, match=r"crack.1.png' is 64 x 36 but its mask .*1_mask.png' is 30 x 30"):
        prepared(root=root)


def test_an_unreadable_file_is_named(root: Path) -> None:
    datamodule = prepared(root=root, categories=["bee"])
    samples = datamodule.test_data.samples
    image, mask = samples.iloc[0][["image_path", "mask_path"]]
    Path(mask).write_bytes(Path(mask).read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"could not read mask '{mask}'"):
        datamodule.test_data[0]
    Path(image).write_bytes(Path(image).read_bytes()[:300])
    with pytest.raises(ValueError, match=rf"could not read image '{image}': .*; remove or replace it"):
        datamodule.test_data[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categories": ["bee", "bee"]}, "more than one category is called 'bee'"),
        ({"categories": ["bea"]}, "no category 'bea' in .* are ant, bee, cup"),
        ({"categories": ["bee", "screw"]}, "no category 'screw' in .* are ant, bee, cup"),  # as one of MVTec AD's
        ({"categories": []}, "there are no categories"),
        ({"categories": ["bee", 7]}, "categories has 7, which is not text; put the product's name in quotes"),
        (
            {"dataset_args": {"category": "ant", "root": "x"}},
            "dataset_args cannot have category, root, which every cat",
        ),
        ({"datamodules": MVTecAD()}, "datamodules must be a list or a dict of anomalib's datamodules, got <"),
        ({"datamodules": [MVTecAD]}, "datamodules must be a list or a dict of anomalib's datamodules, got \\[<class"),
        ({"datamodules": {"bee": "ant"}}, "datamodules must be a list or a dict of anomalib's datamodules, got {'bee'"),
        ({"datamodules": {None: MVTecAD()}}, "categories has None, which is not text"),
        ({"categories": None}, "categories must be 'all' or a list of folder names, got None"),
        ({"dataset": "MVTekAD"}, "use a class path or one of .*MVTecAD"),
        ({"dataset": "Folder"}, "needs normal_dir"),
        ({"dataset": "Folder", "categories": ["bee"]}, "needs normal_dir"),
        (
            {"dataset": "Folder", "dataset_args": {"normal_dir": "good"}},
            "no folder in .*shop contains good; they have MVTec AD's layout: give dataset='MVTecAD' and no dataset",
        ),
        (
            {"dataset": "Folder", "dataset_args": {"normal_dir": "good"}, "categories": ["bee"]},
            "'bee' in .*shop contains no good; they have MVTec AD's layout: give dataset='MVTecAD' and no dataset_args",
        ),
        (
            {"dataset_args": {"normal_dir": "good", "mask_dir": "mask"}},
            "dataset MVTecAD does not take normal_dir, mask_dir; remove this from dataset_args",
        ),
        ({"dataset": "Kolektor"}, "cannot be found automatically; give categories as a list"),
        ({"dataset": "BTech"}, "no folder in .* contains train/ok"),
        ({"root": "nowhere"}, "there is no folder nowhere"),
    ],
)
def test_wrong_arguments_say_what_to_do(root: Path, arguments: dict[str, object], message: str) -> None:
    datamodule = MultiCategory(**{"root": root, **arguments})
    for use in (lambda: datamodule.categories, lambda: datamodule.name, datamodule.prepare_data, datamodule.setup):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            use()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("val_split_mode", "some", "cannot be 'some'; choose one of none, same_as_test, from_train"),
        ("train_batch_size", 0, "must be at least 1, got 0."),
        ("num_workers", -1, "must be at least 0, got -1."),
        ("test_split_ratio", 2, "must lie between 0 and 1, got 2."),
        ("bits", 8, "must be 10 to 16, got 8; 8-bit files need no bits."),
        ("max_pixels", 0, "must be at least 1, got 0."),
    ],
)
def test_an_argument_out_of_range_is_named_with_what_is_in_it(root: Path, name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} {said}"):
        MultiCategory(root, **{name: value})


def test_a_category_given_as_root_is_noticed(root: Path) -> None:
    with pytest.raises(ValueError, match=r"a category itself: give root='.*shop' and categories=\['bee'\]"):
        prepared(root=root / "bee")


@pytest.mark.parametrize("wrong", ["..", "bee/train"])
def test_a_root_that_is_a_level_off_is_noticed(root: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"give root='{root}'"):
        prepared(root=(root / wrong).resolve())


def test_advice_on_the_layout_leads_to_a_datamodule_that_reads_it(root: Path) -> None:
    assert prepared(root=root, dataset="MVTecAD").categories == ["ant", "bee", "cup"]


def test_reserved_names_are_refused(root: Path) -> None:
    (root / "bee").rename(root / "mean")
    with pytest.raises(ValueError, match="cannot be called 'mean'"):
        prepared(root=root)


@pytest.mark.parametrize("name", [b"b\xe9b\xe9", b"a\nb", b"\x1b[31mred"])
def test_a_folder_whose_name_no_table_can_show_is_refused(root: Path, name: bytes) -> None:
    (root / "bee").rename(root / os.fsdecode(name))
    with pytest.raises(ValueError, match=r"cannot be called '.*'; rename it"):
        prepared(root=root)


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
