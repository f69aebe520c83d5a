# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The generated quickstart data as anomalib sees it."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.data.utils import ValSplitMode

from anomalib_grad.data import CategoryImageBatch
from anomalib_grad.data.textures import Textures
from anomalib_grad.data.textures.files import TexturesSpec, ensure_written

TINY = {"image_size": 64, "n_train": 3, "n_test_good": 2, "n_defect": 1}
SPEC = TexturesSpec(**TINY)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "GradTextures"
    ensure_written(root, SPEC)
    return root


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_category_is_tested_on_every_kind_of_defect(written: Path) -> None:
    datamodule = Textures(written, **TINY)
    assert datamodule.categories == ["brick", "grass", "gravel", "plate"]
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.train_data) == 4 * 3
    assert len(datamodule.test_data) == 4 * (2 + 5)
    labels = datamodule.test_data.samples.groupby("category")["label"].agg(set)
    assert all(kinds == {"good", "foreign", "hole", "missing", "scratch", "stain"} for kinds in labels)


def test_batches_name_categories_and_carry_masks(written: Path) -> None:
    datamodule = Textures(written, eval_batch_size=28, **TINY)
    datamodule.setup()
    (batch,) = list(datamodule.test_dataloader())
    assert isinstance(batch, CategoryImageBatch)
    assert set(batch.category or []) == {"brick", "grass", "gravel", "plate"}
    assert batch.image.shape == (28, 3, 64, 64)
    assert torch.equal(batch.gt_mask.flatten(1).any(dim=1), batch.gt_label.bool())


def test_a_single_category_can_be_chosen(written: Path) -> None:
    datamodule = Textures(written, categories=["grass"], val_split_mode="synthetic", **TINY)
    datamodule.setup()
    assert datamodule.categories == ["grass"]
    assert datamodule.val_split_mode is ValSplitMode.SYNTHETIC
    assert set(datamodule.train_data.samples["category"]) == {"grass"}


def test_anomalibs_own_datamodule_reads_the_folder(written: Path) -> None:
    datamodule = MVTecAD(root=written, category="plate", num_workers=0)
    datamodule.setup()
    assert len(datamodule.test_data) == 7
    assert datamodule.test_data[0].gt_mask is not None


def test_the_seed_decides(written: Path, tmp_path: Path) -> None:
    ensure_written(tmp_path / "again", SPEC)
    assert digest(tmp_path / "again") == digest(written)
    ensure_written(tmp_path / "other", TexturesSpec(**TINY, seed=1))
    other, first = digest(tmp_path / "other"), digest(written)
    assert other.keys() == first.keys()
    pictures = [name for name in first if "train" in name or "test" in name]
    assert not any(other[name] == first[name] for name in pictures)


def test_more_images_leave_the_others_as_they_are(written: Path, tmp_path: Path) -> None:
    ensure_written(tmp_path / "more", TexturesSpec(**{**TINY, "n_train": 4, "n_defect": 2}))
    first, more = digest(written), digest(tmp_path / "more")
    first.pop("textures.json")
    assert {name: more[name] for name in first} == first


def test_no_image_appears_twice(written: Path) -> None:
    pictures = [value for name, value in digest(written).items() if "/train/" in name or "/test/" in name]
    assert len(set(pictures)) == len(pictures) == 4 * 10


def test_written_images_are_reused(written: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    Textures(written, **TINY).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == times


def test_other_settings_do_not_mix_with_written_images(written: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings.*choose another root or delete"):
        Textures(written, **{**TINY, "n_train": 4}).prepare_data()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty, but holds no generated textures"):
        ensure_written(tmp_path, SPEC)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", interrupt)  # the manifest is written last
    with pytest.raises(KeyboardInterrupt):
        ensure_written(tmp_path / "GradTextures", SPEC)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_start_together_agree(written: Path, tmp_path: Path) -> None:
    root = tmp_path / "GradTextures"
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: ensure_written(root, SPEC), range(3)))
    assert digest(root) == digest(written)
    assert [path.name for path in tmp_path.iterdir()] == ["GradTextures"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categories": ["bottle"]}, "no category 'bottle'; choose among brick, grass, gravel, plate"),
        ({"categories": ["brick", "brick"]}, "more than one category"),
        ({"image_size": 256}, "32 to 192 pixels, got 256"),
        ({"n_defect": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Textures(**arguments)
