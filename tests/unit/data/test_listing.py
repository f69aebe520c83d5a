# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""One rule says which files of a folder are images, and everything that lists a folder keeps to it."""

import logging
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from anomalib.data import Folder
from anomalib.engine import Engine
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_grad.data import MultiCategory, PredictImages, list_images
from anomalib_grad.data.anomalib_data import LeaveOutHidden
from anomalib_grad.data.listing import IMAGE_SUFFIXES
from anomalib_grad.lightning_model import Grad
from helpers import TINY

NO_WORKERS = {"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4}
FOLDER = {"dataset": "Folder", "dataset_args": {"normal_dir": "good", "abnormal_dir": "bad", "mask_dir": "mask"}}
HIDDEN = ("._1.png", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/1-checkpoint.png", "@eaDir/1.png/SYNO_M.jpg")
"""What systems write into folders."""


def clutter(folder: Path) -> None:
    """Write hidden files of any content into a folder and all below it."""
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for name in HIDDEN:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(b"\0\5\26\7 no image")


def in_folders(product: Callable[..., Path], root: Path, *names: str, suffix: str = "") -> Path:
    """Write products as a folder each of normal images, anomalous ones and masks."""
    for name in names:
        source = product(root / name, good=0, train=6)
        for old, new in (("train/good", "good"), ("test/crack", "bad"), ("ground_truth/crack", "mask")):
            (source / old).rename(source / new)
        for folder in ("train", "test", "ground_truth"):
            shutil.rmtree(source / folder)
        for mask in (source / "mask").iterdir():
            mask.rename(mask.with_name(mask.name.replace("_mask", suffix)))
    return root


def subsets(**arguments: object) -> dict[str, list[str]]:
    datamodule = MultiCategory(**{**NO_WORKERS, **arguments})
    datamodule.setup()
    return {name: list(getattr(datamodule, f"{name}_data").samples["image_path"]) for name in ("train", "val", "test")}


def test_images_are_those_of_torchvision_and_anomalib() -> None:
    assert set(IMG_EXTENSIONS) == IMAGE_SUFFIXES


def test_hidden_files_are_no_images_wherever_a_folder_is_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, listed = subsets(root=root), list_images(root)
    clutter(root)
    assert subsets(root=root) == before
    assert list_images(root) == listed == PredictImages(root).image_filenames
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.chdir(root)
    script = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "batch_inference.py"))
    (root / "ant/ignore.png").touch()
    judged = [path for path in listed if "ground_truth" not in path.parts]
    for place, expected in ((".", judged), ("**/*_*.*", [path for path in listed if path not in judged])):
        assert [Path(path) for path in script["list_images"](script["Place"].parse(place))] == expected


def test_hidden_files_are_no_images_in_folders_of_any_layout(tmp_path: Path, product: Callable[..., Path]) -> None:
    root = in_folders(product, tmp_path / "parts", "nut")
    before = subsets(root=root, **FOLDER)
    clutter(root)
    assert subsets(root=root, **FOLDER) == before


def test_hidden_files_are_left_out_of_anomalibs_own_data_sets(root: Path) -> None:
    for name in ("._1.png", ".trash/1.png"):
        (root / "bee/train/good" / name).parent.mkdir(exist_ok=True)
        (root / "bee/train/good" / name).write_bytes(b"")
    (root / ".parts").mkdir()
    (root / "bee").rename(root / ".parts/bee")  # what lies above the named folder hides nothing
    own = Folder("bee", root=root / ".parts/bee", normal_dir="train/good", abnormal_dir="test/crack", num_workers=0)
    own.setup()
    before = len(own.train_data) + len(own.test_data) + len(own.val_data)
    LeaveOutHidden().setup(SimpleNamespace(datamodule=own), SimpleNamespace(), "fit")
    listed = [path for part in (own.train_data, own.val_data, own.test_data) for path in part.samples["image_path"]]
    assert len(listed) == before - 2
    assert not [path for path in listed if Path(path).name.startswith(".") or "/.trash/" in path]
    joined = {"ant": Folder("ant", root=root / "ant", normal_dir="train/good", abnormal_dir="test/crack"), "bee": own}
    datamodule = MultiCategory(datamodules=joined, **NO_WORKERS)
    datamodule.setup()
    LeaveOutHidden().setup(SimpleNamespace(datamodule=datamodule), SimpleNamespace(), "fit")
    assert set(datamodule.train_data.samples["category"]) == {"ant", "bee"}


def test_a_folder_within_a_hidden_one_is_read_if_it_is_named(tmp_path: Path, product: Callable[..., Path]) -> None:
    product(tmp_path / ".data/shop/ant")
    assert len(list_images(tmp_path / ".data/shop")) == 12
    assert {len(paths) for paths in subsets(root=tmp_path / ".data/shop").values()} == {4, 5}
    assert list_images(tmp_path) == []


def test_images_are_found_at_any_depth_and_with_their_masks(root: Path) -> None:
    before = {name: len(paths) for name, paths in subsets(root=root).items()}
    for folder in ("train/good", "test/good", "test/crack", "ground_truth/crack"):
        for number, path in enumerate(sorted((root / "ant" / folder).iterdir())):
            day = path.parent / f"day{number % 2}" / "camera"
            day.mkdir(parents=True, exist_ok=True)
            if number:  # one stays where it is
                name = path.name if folder != "ground_truth/crack" else path.name.replace("_mask", "")
                path.rename(day / name)
    for image in (root / "ant/test/crack").rglob("*.png"):  # masks lie where their images do
        mask = root / "ant/ground_truth/crack" / image.relative_to(root / "ant/test/crack")
        for found in (root / "ant/ground_truth/crack").rglob(f"{image.stem}*.png"):
            if found.stem.removesuffix("_mask") == image.stem:
                mask.parent.mkdir(parents=True, exist_ok=True)
                found.rename(mask)
    after = subsets(root=root)
    assert {name: len(paths) for name, paths in after.items()} == before
    assert any("/day1/camera/" in path for path in after["train"])


def test_linked_folders_are_followed_and_circles_end(tmp_path: Path, product: Callable[..., Path]) -> None:
    product(tmp_path / "ant")
    (tmp_path / "far/day1").mkdir(parents=True)
    Image.new("RGB", (48, 40)).save(tmp_path / "far/day1/9.png")
    (tmp_path / "ant/train/good/far").symlink_to(tmp_path / "far")
    (tmp_path / "far/day1/back").symlink_to(tmp_path / "far")
    assert [path.name for path in list_images(tmp_path / "ant/train")] == ["1.png", "2.png", "3.png", "4.png", "9.png"]


def test_a_link_to_a_folder_that_is_not_there_is_named(root: Path) -> None:
    (root / "ant/train/good/day7").symlink_to(root / "not mounted")
    with pytest.raises(ValueError, match=r"day7 is a link to .*not mounted, which does not exist"):
        subsets(root=root)


def test_images_without_a_role_are_counted_in_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(root / "ant/train/good", root / "ant/train/bad")
    shutil.copy(root / "ant/test/good/1.png", root / "ant/test")
    subsets(root=root)
    (warning,) = [message for message in caplog.messages if message.startswith("left out of")]
    assert warning.startswith(f"left out of {root / 'ant'}, ")
    assert "images: 1 in test, 3 in train/bad;" in warning


def test_pictures_in_formats_that_are_not_read_are_counted_in_a_warning(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Phones save photographs as HEIC; whoever has put them there expects them to count."""
    before = subsets(root=root)
    for name in ("7.heic", "day2/8.HEIC", "._9.heic", ".trash/9.avif"):
        (root / "ant/train/good" / name).parent.mkdir(exist_ok=True)
        (root / "ant/train/good" / name).write_bytes(b"no format that is read")
    (root / "ant/train/good/notes.txt").write_text("")
    assert subsets(root=root) == before
    said = (
        f"left out of {root / 'ant'}, as their formats are not supported: images: 2 in train/good (first: 7.heic); save"
    )
    assert [message for message in caplog.messages if "as their formats" in message] == [f"{said} them as PNG"]
    caplog.clear()
    assert len(PredictImages(root / "ant/train/good").image_filenames) == 3
    assert "as their formats are not supported: images: 1 in ., 1 in day2 (first: 7.heic)" in caplog.text


@pytest.mark.parametrize("name", ["train/ok", "train/Good", "train", "Train/good", "training/good"])
def test_a_product_that_cannot_be_read_stops_the_run_with_what_was_found(root: Path, name: str) -> None:
    source = root / "bee/train/good"
    if name == "train":
        for image in source.iterdir():
            image.rename(root / "bee/train" / image.name)
        source.rmdir()
    else:
        (root / "spare").mkdir()
        source.rename(root / "spare/good")
        (root / "bee/train").rmdir()
        (root / "bee" / name).parent.mkdir()
        (root / "spare/good").rename(root / "bee" / name)
        (root / "spare").rmdir()
    found = rf"{root / 'bee'} has images: .*6 in {name}.*, but no train/good; rename the folder of the normal training"
    with pytest.raises(ValueError, match=found):
        subsets(root=root)
    with pytest.raises(ValueError, match=rf"'bee' in .* contains no train/good; .*6 in {name}.*; rename the folder"):
        subsets(root=root, categories=["ant", "bee"])
    assert len(subsets(root=root, categories=["ant", "cup"])["train"]) == 5


@pytest.mark.parametrize("name", ["ok", "Good", "NORMAL"])
def test_good_parts_are_not_counted_as_a_kind_of_defect(root: Path, name: str) -> None:
    good = root / "bee/test/good"
    count = len(list_images(good))
    good.rename(root / "spare")
    (root / "spare").rename(root / "bee/test" / name)
    with pytest.raises(ValueError, match=rf"bee/test/{name} \({count} images\) would count as a kind of defect"):
        subsets(root=root)


def test_a_folder_that_looks_like_no_product_stays_ignored(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (8, 8)).save(root / "notes/sketch.png")
    (root / "code/train").mkdir(parents=True)
    (root / "code/train/run.py").write_text("")
    subsets(root=root)
    assert "ignored folders in" in caplog.text
    assert "code, notes" in caplog.text


def test_a_product_in_folders_without_normal_ones_stops_the_run(tmp_path: Path, product: Callable[..., Path]) -> None:
    root = in_folders(product, tmp_path / "parts", "nut", "pin")
    (root / "pin/good").rename(root / "pin/Good")
    with pytest.raises(ValueError, match=r"pin has images: 6 in Good, 3 in bad, 3 in mask, but no good; rename"):
        subsets(root=root, **FOLDER)


# ------------------------------------------------------------------ masks


@pytest.mark.parametrize("suffix", ["", "_mask", "_gt"])
def test_folders_pair_masks_by_name_or_in_order(tmp_path: Path, product: Callable[..., Path], suffix: str) -> None:
    root = in_folders(product, tmp_path / "parts", "nut", suffix=suffix)
    if suffix != "_gt":  # an order that tells nothing: 1, 10, 2 and 10_mask, 1_mask, 2_mask
        for folder, end in (("bad", ""), ("mask", suffix)):
            (root / "nut" / folder / f"3{end}.png").rename(root / "nut" / folder / f"10{end}.png")
    datamodule = MultiCategory(root=root, **FOLDER, **NO_WORKERS, val_split_mode="same_as_test")
    datamodule.setup()
    masked = datamodule.test_data.samples.query("mask_path != ''")
    assert len(masked) == 3
    assert all(Path(row.mask_path).stem == Path(row.image_path).stem + suffix for row in masked.itertuples())


def test_folders_name_what_does_not_match(tmp_path: Path, product: Callable[..., Path]) -> None:
    root = in_folders(product, tmp_path / "parts", "nut")
    (root / "nut/mask/2.png").rename(root / "nut/mask/7.png")
    lacking = r"1 of 3 anomalous images have no mask \(first: .*bad/2.png\), 1 masks belong to no .*mask/7.png\)"
    with pytest.raises(ValueError, match=rf"{lacking}; give each mask the name of its image"):
        subsets(root=root, **FOLDER)


def test_folders_that_overlap_are_refused(tmp_path: Path, product: Callable[..., Path]) -> None:
    in_folders(product, tmp_path / "parts", "nut")
    with pytest.raises(ValueError, match=r"bad/1.png lies in two of the folders in dataset_args; give"):
        subsets(root=tmp_path / "parts", dataset="Folder", dataset_args={"normal_dir": ".", "abnormal_dir": "bad"})
    for anomalous in ("bad", ["bad", "bad"]):
        given = {"normal_dir": "good", "normal_test_dir": "bad", "abnormal_dir": anomalous}
        with pytest.raises(ValueError, match=r"bad/1.png lies in two of the folders in dataset_args; give"):
            subsets(root=tmp_path / "parts", dataset="Folder", dataset_args=given)


def test_good_parts_below_the_folder_of_anomalous_ones_are_not_counted_as_defects(root: Path) -> None:
    count = len(list_images(root / "bee/test/good"))
    message = rf"bee/test/good \({count} images\) would count as a kind of defect; give the folders of defects"
    given = {"normal_dir": "train/good", "abnormal_dir": "test"}
    with pytest.raises(ValueError, match=message):
        subsets(root=root, categories=["bee"], dataset="Folder", dataset_args=given)


def test_masks_of_normal_images_may_be_there_if_they_mark_nothing(root: Path) -> None:
    before = subsets(root=root)
    folder = root / "bee/ground_truth/good"
    folder.mkdir()
    for image in (root / "bee/test/good").iterdir():
        Image.new("L", (64, 36)).save(folder / f"{image.stem}_mask.png")
    assert subsets(root=root) == before
    Image.new("L", (64, 36), 255).save(folder / "2_mask.png")
    with pytest.raises(
        ValueError,
        match=r"bee/test/good/2.png lies among the normal images, but its mask .*2_mask.png marks pixels; move",
    ):
        subsets(root=root)


def test_masks_among_the_images_are_not_trained_or_tested_on(root: Path) -> None:
    shutil.copy(root / "bee/ground_truth/crack/1_mask.png", root / "bee/test/crack/1_mask.png")
    with pytest.raises(ValueError, match=r"1 masks lie among the images .*crack/1_mask.png\); move them"):
        subsets(root=root)


def test_masks_saved_with_loss_are_cut_at_half_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def marked() -> int:
        datamodule = MultiCategory(root=root, categories=["ant"], **NO_WORKERS)
        datamodule.setup()
        return sum(int(batch.gt_mask.sum()) for batch in datamodule.test_dataloader())

    before = marked()
    assert "in a lossy format" not in caplog.text
    for mask in list((root / "ant/ground_truth/crack").iterdir()):
        Image.open(mask).save(mask.with_suffix(".jpg"), quality=75)
        mask.unlink()
    assert marked() == pytest.approx(before, rel=0.02)
    (warning,) = [message for message in caplog.messages if "in a lossy format" in message]
    assert warning.startswith(f"11 masks are in a lossy format (first: {root / 'ant/ground_truth/crack'}")


def test_an_image_that_exif_turns_is_told_from_its_mask(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    path = root / "bee/test/crack/1.png"
    Image.open(path).save(path, exif=exif)
    subsets(root=root)
    assert f"EXIF asks to rotate 1 images but not their masks, or the reverse (first: {path})" in caplog.text
    exif[0x0112] = 6
    Image.open(path).rotate(90, expand=True).save(path, exif=exif)
    with pytest.raises(ValueError, match=r"is 36 x 64 but its mask .* is 64 x 36 \(EXIF asks"):
        subsets(root=root)


# ------------------------------------------------------------------ missing splits, unreadable images


def test_normal_images_alone_train_without_a_test(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("ant", "bee", "cup"):
        shutil.rmtree(root / name / "test")
        shutil.rmtree(root / name / "ground_truth", ignore_errors=True)
    caplog.set_level(logging.WARNING)
    for mode, validated in (("none", 0), ("from_train", 11)):
        arguments = {"test_split_mode": "none", "val_split_mode": mode, "val_split_ratio": 0.5}
        datamodule = MultiCategory(root=root, **arguments, **NO_WORKERS)
        datamodule.setup()
        assert datamodule.test_dataloader() == []
        n_validated = len(datamodule.val_data) if hasattr(datamodule, "val_data") else 0
        assert len(datamodule.train_data) + n_validated == 11
        assert (n_validated > 0) == (validated > 0)
    assert "category 'ant' has no test image and test_split_mode is 'none', so it is not tested" in caplog.text


def test_prediction_leaves_out_and_lists_what_it_cannot_read(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = list_images(root)
    images[2].write_text("nothing")
    images[5].write_bytes(b"")
    kept = PredictImages(root, skip_unreadable=True)
    assert kept.image_filenames == [image for row, image in enumerate(images) if row not in {2, 5}]
    (listing,) = [message for message in caplog.messages if message.startswith("left out 2 of")]
    assert str(images[2]) in listing
    assert str(images[5]) in listing
    with pytest.raises(ValueError, match=f"could not read image '{images[2]}'"):
        [item.image_path for item in PredictImages(root)]
    for image in images:
        image.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image in .* can be read"):
        PredictImages(root, skip_unreadable=True)


def test_prediction_names_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no image or folder .*gone; check the path"):
        PredictImages(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"there is no image in .*: no file ends in \.bmp, "):
        PredictImages(tmp_path)


def test_prediction_given_as_a_datamodule_says_how_it_is_given(root: Path) -> None:
    images = PredictImages(root)
    with pytest.raises(
        AttributeError, match=r"PredictImages is not a datamodule; call engine\.predict\(model, dataset="
    ):
        Engine(logger=False).predict(Grad(**TINY), datamodule=images)  # type: ignore[arg-type]
    assert not hasattr(images, "name")
