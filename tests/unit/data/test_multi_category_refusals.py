# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""MultiCategory says what is wrong with folders, images, masks and arguments, and what to do."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from anomalib.data import MVTecAD
from PIL import Image

from anomalib_grad.data import MultiCategory

NO_WORKERS = {"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4}


def prepared(**arguments: object) -> MultiCategory:
    datamodule = MultiCategory(**{**NO_WORKERS, **arguments})
    datamodule.setup()
    return datamodule


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
