# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A full disk, a folder that cannot be written to, files that vanish: one clear error, and what was whole stays so."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from lightning.pytorch import Callback, Trainer

from anomalib_grad.data import MultiCategory
from anomalib_grad.deploy.export import publish
from anomalib_grad.evaluation import PerCategoryEvaluator
from anomalib_grad.feature_cache.store import GIB, CacheFile
from anomalib_grad.files.atomic import LEFTOVER_SECONDS, CannotWriteError, writing
from anomalib_grad.files.checkpoint_io import WholeCheckpointIO
from anomalib_grad.lightning_model import Grad
from anomalib_grad.report.records import CategoryResult, TestReport
from anomalib_grad.report.table import write_csv, write_json
from anomalib_grad.training.unusable_weights import DivergenceError
from helpers import as_if_trained, tiny, write_category

NO_ROOM = r"cannot write '.*/images/inputs\.json' \(File too large\)"
ROW = CategoryResult("nut", 2, 2, 1.0, 1.0, 1.0, 1.0, threshold=3.0)
REPORT = TestReport("Grad", [ROW] * 100, ROW, [], [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, timeout=60)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=60)


def make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, timeout=60)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes: what a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Python would keep the half of it
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_bytecode
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save(path: Path, numbers: int) -> None:
    WholeCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.ones(numbers)}}, path)


def write_text(path: Path, numbers: int) -> None:
    with writing(path) as unfinished:
        unfinished.write_text("1" * 4 * numbers)


def report_csv(path: Path, numbers: int) -> None:
    write_csv(REPORT if numbers > 1000 else TestReport("Grad", [], ROW, [], []), path)


def report_json(path: Path, numbers: int) -> None:
    write_json(REPORT if numbers > 1000 else TestReport("Grad", [], ROW, [], []), path)


WRITERS = {"checkpoint": save, "text": write_text, "csv": report_csv, "json": report_json}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_above_the_quota_leaves_the_old_one_whole(tmp_path: Path, write: Callable[[Path, int], None]) -> None:
    target = tmp_path / "file"
    write(target, 10)
    before = target.read_bytes()
    with files_up_to(len(before) + 1000), pytest.raises(OSError, match=rf"cannot write '{target}' .*Make room"):
        write(target, 100_000)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def write_torch(path: Path, numbers: int) -> None:
    torch.save({"weight": torch.ones(numbers)}, path)


def write_onnx(path: Path, numbers: int) -> None:
    weight = onnx.numpy_helper.from_array(np.ones(numbers, np.float32), "weight")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], [weight])), path)


def write_openvino(path: Path, numbers: int) -> None:
    weight = ov.opset13.constant(np.ones(numbers, np.float32))
    ov.save_model(ov.Model([ov.opset13.result(weight)], []), path, compress_to_fp16=False)


EXPORTS = {ExportType.TORCH: write_torch, ExportType.ONNX: write_onnx, ExportType.OPENVINO: write_openvino}


@pytest.mark.parametrize(("kind", "write"), EXPORTS.items(), ids=[kind.value for kind in EXPORTS])
def test_an_export_without_room_names_its_folder_and_leaves_the_old_one_whole(
    tmp_path: Path, kind: ExportType, write: Callable[[Path, int], None]
) -> None:
    """The libraries speak of streams, of positions and of error 27."""

    def export(root: Path, numbers: int) -> Path:
        folder = root / "weights" / kind.value
        folder.mkdir(parents=True)
        write(folder / "model.xml", numbers)
        return folder / "model.xml"

    folder = publish(partial(export, numbers=10), tmp_path, kind).parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with files_up_to(2**16), pytest.raises(CannotWriteError, match=rf"cannot write '{folder}' .*Make room"):
        publish(partial(export, numbers=2**18), tmp_path, kind, size=2**20)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def without_room_for_temporary_files(
    model: Grad, target: Path, reason: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export to OpenVINO by way of an ONNX file of a megabyte."""
    monkeypatch.setattr(torch.onnx, "export", lambda f, **_: write_onnx(Path(f), 2**18))
    with pytest.raises(CannotWriteError) as error:
        model.to_openvino(target)
    assert error.value.strerror == (
        f"cannot write to '{gettempdir()}', the folder for temporary files ({reason}); {advice}, then start again."
    )
    assert not list((target / "weights/openvino").iterdir())


def test_an_export_to_openvino_names_the_limit_of_files_by_way_of_which_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = as_if_trained(Grad(**tiny()))
    advice = "allow larger files (ulimit -f), or set TMPDIR to a folder on a disk that allows them"
    with files_up_to(2**16):
        without_room_for_temporary_files(model, tmp_path, "File too large", advice, monkeypatch)


def test_an_export_to_openvino_names_the_full_disk_of_temporary_files(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    model = as_if_trained(Grad(**tiny()))
    advice = "make room there, or set TMPDIR to a folder on a disk with free space"
    without_room_for_temporary_files(model, tmp_path, "No space left on device", advice, monkeypatch)


def test_other_faults_of_an_export_are_not_blamed_on_the_disk(tmp_path: Path) -> None:
    def export(root: Path) -> Path:
        raise RuntimeError("an operator is not supported")

    with pytest.raises(RuntimeError, match="not supported"):
        publish(export, tmp_path, ExportType.ONNX, size=1000)


def test_a_file_in_the_place_of_an_exports_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("")
    with pytest.raises(CannotWriteError, match=r"weights/torch' \(Not a directory\).*choose a writable folder"):
        publish(write_torch, tmp_path, ExportType.TORCH)


def test_a_folder_that_must_not_be_written_to_is_named(small_disk: Path) -> None:
    make_read_only(small_disk)
    with pytest.raises(CannotWriteError, match=rf"'{small_disk}/new/weights/torch' \(Read-only file system\)"):
        publish(write_torch, small_disk / "new", ExportType.TORCH)


def test_a_results_folder_that_cannot_be_made_is_named_with_its_setting(shop: Path, small_disk: Path) -> None:
    make_read_only(small_disk)
    engine = Engine(default_root_dir=small_disk, accelerator="cpu", devices=1, logger=False)
    folder = rf"cannot write '{small_disk}/Grad/{shop.name}' \(Read-only file system\)"
    with pytest.raises(CannotWriteError, match=rf"{folder}.* choose a writable folder \(default_root_dir\)"):
        engine.fit(Grad(**tiny()), datamodule=MultiCategory(root=shop, num_workers=0))


def test_a_test_whose_heatmaps_have_no_room_prints_its_figures_and_fails(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = as_if_trained(Grad(**tiny(mse_threshold=1.0)))
    data = MultiCategory(root=shop, eval_batch_size=4, num_workers=0)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "devices": 1}
    engine = Engine(callbacks=[PerCategoryEvaluator(report=False)], default_root_dir=tmp_path, **quiet)
    with files_up_to(100), pytest.raises(CannotWriteError, match=NO_ROOM):
        engine.test(model, datamodule=data)
    assert "nut/image_AUROC" in capsys.readouterr().out
    with files_up_to(100), pytest.raises(CannotWriteError, match=NO_ROOM):
        engine.predict(model, dataset=PredictDataset(shop / "nut/test/good"))
    engine.test(model, datamodule=data)
    assert all(path.stat().st_size > 100 for path in tmp_path.rglob("*.png"))
    assert len(list(tmp_path.rglob("*.png"))) >= 4


def test_a_checkpoint_for_a_full_disk_leaves_the_old_one_whole(small_disk: Path) -> None:
    target = small_disk / "weights/model.ckpt"
    save(target, 1000)
    before = target.read_bytes()
    with pytest.raises(OSError, match=rf"cannot write '{target}' \(No space left on device\)"):
        save(target, 100_000)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["model.ckpt"]


def test_a_cache_for_a_full_disk_stops_before_anything_is_computed(small_disk: Path) -> None:
    file = CacheFile(small_disk, "name", (1000, 1000), np.dtype("float32"))
    with pytest.raises(
        OSError, match=r"needs 0\.00373 GiB in .* \(No space left on device\); .*set feature_cache to false"
    ):
        file.begin(GIB)
    assert [path.name for path in small_disk.iterdir()] == ["name.lock"]


def test_a_disk_that_becomes_read_only_is_named_and_keeps_the_old_checkpoint(small_disk: Path) -> None:
    target = small_disk / "model.ckpt"
    save(target, 1000)
    make_read_only(small_disk)
    with pytest.raises(OSError, match=rf"cannot write '{target}' \(Read-only file system\)"):
        save(target, 1)
    assert torch.load(target, weights_only=True)["state_dict"]["weight"].shape == (1000,)
    file = CacheFile(small_disk / "cache", "name", (1, 1), np.dtype("float32"))
    with pytest.raises(OSError, match=r"cannot write feature caches to .*Read-only file system"):
        file.begin(GIB)


class AfterFirstEpoch(Callback):
    """Does something to the machine, or to the model, after the first epoch."""

    def __init__(self, action: Callable[[Grad], object]) -> None:
        self.action = action

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Grad) -> None:
        if trainer.current_epoch == 1:
            self.action(pl_module)


def train(
    shop: Path, folder: Path, action: Callable[[Grad], object], num_workers: int = 0, **arguments: object
) -> None:
    data = MultiCategory(root=shop, train_batch_size=2, eval_batch_size=4, num_workers=num_workers)
    engine = Engine(
        callbacks=[AfterFirstEpoch(action)], default_root_dir=folder, max_epochs=2, accelerator="cpu", devices=1
    )
    engine.fit(Grad(**tiny(**arguments), evaluator=False, visualizer=False), datamodule=data)


def test_a_disk_that_fills_up_while_training_keeps_the_last_checkpoint(shop: Path, tmp_path: Path) -> None:
    with files_up_to(2**30), pytest.raises(OSError, match=r"cannot write '.*/model\.ckpt' \(File too large\)") as error:
        train(shop, tmp_path, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY)))
    (checkpoint,) = tmp_path.glob("Grad/*/v0/weights/lightning/*")
    assert error.value.__notes__ == [
        f"Resume from the last checkpoint with: engine.fit(model, ..., ckpt_path='{checkpoint}')"
    ]
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0
    assert isinstance(Grad.load_from_checkpoint(checkpoint), Grad)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_vanishes_while_training_is_named(tmp_path: Path, num_workers: int) -> None:
    image = write_category(tmp_path / "shop/nut") / "train/good/001.png"
    with pytest.raises(Exception, match=rf"{image}") as error:
        train(tmp_path / "shop", tmp_path / "results", lambda _: image.unlink(), num_workers, feature_cache=False)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert error.value.__notes__[-1].endswith(f"engine.fit(model, ..., ckpt_path='{checkpoint}')")


def test_a_training_that_diverges_names_the_checkpoint_before_it_did(shop: Path, tmp_path: Path) -> None:
    def spoil(model: Grad) -> None:
        model.model.head.local_representation.grid.cells.data.fill_(torch.nan)

    with pytest.raises(DivergenceError, match="training diverged in epoch 1") as error:
        train(shop, tmp_path, spoil)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert error.value.__notes__[-1].endswith(f"engine.fit(model, ..., ckpt_path='{checkpoint}')")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0


def test_a_cache_that_vanishes_while_training_is_not_missed(shop: Path, tmp_path: Path) -> None:
    def remove(_: Grad) -> None:
        (file,) = tmp_path.glob("cache/*.npy")
        file.unlink()

    train(shop, tmp_path, remove, feature_cache="disk", cache={"folder": tmp_path / "cache"})
    assert not list(tmp_path.glob("cache/*.npy"))


def test_what_killed_runs_left_is_removed_after_a_day(tmp_path: Path) -> None:
    left, in_use = tmp_path / ".file.left.unfinished", tmp_path / ".file.in_use.unfinished"
    for folder in (left, in_use):
        folder.mkdir()
        (folder / "file").write_text("half")
    day_ago = time.time() - LEFTOVER_SECONDS - 1
    os.utime(left, (day_ago, day_ago))
    write_text(tmp_path / "file", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [in_use.name, "file"]
