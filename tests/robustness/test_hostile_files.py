# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Files made to do harm: nothing in them is run, what they only claim is refused, nothing is written elsewhere."""

import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from copy import copy
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from anomalib.deploy import TorchInferencer
from anomalib.engine import Engine
from lightning.pytorch import Trainer
from rich.console import Console

from anomalib_grad.backbone import FrozenBackbone
from anomalib_grad.backbone.weights import BackboneWeightsError
from anomalib_grad.checkpoint.to_authors import to_authors
from anomalib_grad.data import MultiCategory
from anomalib_grad.feature_cache.store import CacheFile
from anomalib_grad.files.checkpoint_reading import CheckpointFileError
from anomalib_grad.lightning_model import Grad
from anomalib_grad.report.records import CategoryResult, TestReport
from anomalib_grad.report.table import results_table
from helpers import TINY, as_if_trained, write_category
from hostile import change

MANY = 10**6


class Bomb:
    """Makes a folder when it is unpickled without restriction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


class Wide:
    """Becomes a NumPy value of 100 MB of which nothing is stored."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[np.dtype]]:
        return np.float64(0).__reduce__()[0], (np.dtype("V100000000"),)


def code(whole: Path, path: Path) -> None:
    change(whole, path, extra=Bomb(path.parent / "exploded"))


def large_tensor(whole: Path, path: Path) -> None:
    change(whole, path, state_dict={"model.head.mse_threshold": torch.zeros(1).expand(MANY, MANY)})


def compressed(whole: Path, path: Path) -> None:
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            content = bytes(2**26) if entry.filename.endswith("/data/0") else source.read(entry)
            target.writestr(entry.filename, content)


def overlapping(whole: Path, path: Path) -> None:
    """List one stored part under many names."""
    path.write_bytes(whole.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        for number in range(100):
            again = copy(largest)
            again.filename = f"archive/data/more{number}"
            archive.filelist.append(again)
        archive._didModify = True


CHECKPOINTS = {
    "code": (code, "it holds Python objects"),
    "large tensor": (large_tensor, rf"'model.head.mse_threshold' of shape \({MANY}, {MANY}\) is not stored in full"),
    "zip bomb": (compressed, "it is compressed"),
    "overlapping parts": (overlapping, "its parts claim more bytes than the file has"),
}


@pytest.mark.parametrize(("make", "fault"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused_by_loading_and_by_the_engine(
    whole: Path, tmp_path: Path, make: Callable[[Path, Path], None], fault: str
) -> None:
    hostile = tmp_path / "hostile.ckpt"
    make(whole, hostile)
    expected = f"cannot read checkpoint {hostile}: .*{fault}"
    with pytest.raises(CheckpointFileError, match=expected):
        Grad.load_from_checkpoint(hostile)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    images = write_category(tmp_path / "nut") / "test/good"
    with pytest.raises(Exception, match=expected):
        engine.predict(Grad(**TINY), data_path=images, ckpt_path=hostile)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("function", ["os.system", "lightning.pytorch.cli.instantiate_module"])
@pytest.mark.parametrize("place", ["hyper_parameters", "hparams", "module_arguments"])
def test_a_checkpoint_cannot_choose_a_function_to_call(whole: Path, tmp_path: Path, place: str, function: str) -> None:
    """Lightning trusts its own function, which calls what the arguments name: here a shell, by way of torch."""
    hostile, exploded = tmp_path / "hostile.ckpt", tmp_path / "exploded"
    command = {"cmd": f"touch {exploded}", "encoding": None, "errors": None}
    shell = {"root": "subprocess.getoutput", "concrete_args": command}
    payload = {"class_path": "torch.fx.symbolic_trace", "init_args": shell}
    change(whole, hostile, **{place: {"_instantiator": function, "pre_processor": payload}})
    fsspec.filesystem("memory").pipe("/hostile.ckpt", hostile.read_bytes())
    for source in (hostile, BytesIO(hostile.read_bytes()), "memory://hostile.ckpt"):
        with pytest.raises(
            CheckpointFileError, match=f"names a function to call, '{re.escape(function)}', which could run"
        ):
            Grad.load_from_checkpoint(source)
    with pytest.raises(CheckpointFileError):
        to_authors(hostile, tmp_path / "back.pth.tar")
    assert not exploded.exists()


def test_a_checkpoint_brings_plain_values_only_and_no_folder_to_write_to(whole: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.ckpt"
    change(whole, changed, hyper_parameters={"pre_processor": torch.ones(3)})
    with pytest.raises(CheckpointFileError, match="its argument 'pre_processor' is not a plain value"):
        Grad.load_from_checkpoint(changed)
    change(whole, changed, hyper_parameters={"cache": {"folder": "/someone/elses"}})
    assert Grad.load_from_checkpoint(changed).settings.cache.folder is None


def test_a_checkpoint_is_read_from_a_url_and_an_open_file(whole: Path) -> None:
    fsspec.filesystem("memory").pipe("/whole.ckpt", whole.read_bytes())
    for source in (BytesIO(whole.read_bytes()), "memory://whole.ckpt"):
        weights = Grad.load_from_checkpoint(source).state_dict()
        for name, values in Grad.load_from_checkpoint(whole).state_dict().items():
            torch.testing.assert_close(weights[name], values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("key", ["best_model_path", "kth_best_model_path", "last_model_path", "best_k_models"])
@pytest.mark.parametrize("path", ["{folder}/../../victim", "memory://victim", 5])
def test_a_checkpoint_cannot_have_a_resumed_training_delete_what_it_did_not_write(
    whole: Path, tmp_path: Path, key: str, path: object
) -> None:
    path = path.format(folder=tmp_path / "checkpoints") if isinstance(path, str) else path
    harmless = {"dirpath": str(tmp_path / "checkpoints"), "best_model_path": str(tmp_path / "checkpoints/a.ckpt")}
    state = {**harmless, key: {path: 0.0} if key == "best_k_models" else path}
    change(whole, hostile := tmp_path / "hostile.ckpt", callbacks={"ModelCheckpoint": state})
    with pytest.raises(CheckpointFileError, match=r"resuming from it could delete .*, which is outside its folder;"):
        Grad.load_from_checkpoint(hostile)
    change(whole, tmp_path / "fine.ckpt", callbacks={"ModelCheckpoint": harmless})
    assert isinstance(Grad.load_from_checkpoint(tmp_path / "fine.ckpt"), Grad)


def nested(levels: int) -> list[Any]:
    """Lists that each hold the one before twice: few bytes, and more parts than can be looked at."""
    content: list[Any] = []
    for _ in range(levels):
        content = [content, content]
    return content


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (bytearray(10**7), "it holds Python objects"),
        (Wide(), "it holds Python objects"),
        (nested(40), "it refers to the same collections more often than any training does"),
    ],
)
def test_what_would_take_all_memory_or_time_is_refused(whole: Path, tmp_path: Path, extra: object, fault: str) -> None:
    change(whole, hostile := tmp_path / "hostile.ckpt", extra=extra)
    with pytest.raises(CheckpointFileError, match=fault):
        Grad.load_from_checkpoint(hostile)


def test_a_checkpoint_behind_a_url_is_looked_at_and_named_by_it(whole: Path, tmp_path: Path) -> None:
    change(whole, tmp_path / "hostile.ckpt", extra=nested(40))
    fsspec.filesystem("memory").pipe("/hostile.ckpt", (tmp_path / "hostile.ckpt").read_bytes())
    named = r"cannot read checkpoint memory://hostile\.ckpt: it refers to the same collections"
    with pytest.raises(CheckpointFileError, match=named):
        Grad.load_from_checkpoint("memory://hostile.ckpt")
    write_category(tmp_path / "shop/nut")
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(CheckpointFileError, match=named):
        trainer.predict(
            Grad(**TINY), MultiCategory(tmp_path / "shop", num_workers=0), ckpt_path="memory://hostile.ckpt"
        )


def pickled(path: Path) -> None:
    torch.save({"conv_stem.weight": torch.ones(3), "more": Bomb(path.parent / "exploded")}, path)


def expanded(path: Path) -> None:
    torch.save({"conv_stem.weight": torch.zeros(1).expand(MANY, MANY)}, path)


def deflated(path: Path) -> None:
    torch.save({"conv_stem.weight": torch.zeros(3)}, path.with_suffix(".whole"))
    compressed(path.with_suffix(".whole"), path)


def safetensors(header: bytes, length: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(struct.pack("<Q", length) + header)


CLAIM = {"conv_stem.weight": {"dtype": "F32", "shape": [MANY, MANY], "data_offsets": [0, 4 * MANY**2]}}
HEADER = json.dumps(CLAIM).encode()
WEIGHTS = {
    "code": ("w.pth", pickled),
    "large tensor": ("w.pth", expanded),
    "zip bomb": ("w.pth", deflated),
    "safetensors of terabytes": ("w.safetensors", safetensors(HEADER, len(HEADER))),
    "safetensors with an endless header": ("w.safetensors", safetensors(HEADER, 2**62)),
}


@pytest.mark.parametrize(("name", "make"), WEIGHTS.values(), ids=WEIGHTS)
def test_hostile_weights_of_a_backbone_are_refused(tmp_path: Path, name: str, make: Callable[[Path], object]) -> None:
    make(tmp_path / name)
    backbone = FrozenBackbone(TINY["backbone"], pre_trained=tmp_path / name, image_size=TINY["image_size"])
    with pytest.raises(BackboneWeightsError, match=r"cannot (read|use) weights"):
        backbone.ensure_weights()
    assert not (tmp_path / "exploded").exists()


def test_a_cache_that_claims_terabytes_is_not_mapped(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, "name", (MANY, MANY), np.dtype("float32"))
    with file.path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (MANY, MANY)})
    assert file.read() is None


def test_anomalibs_torch_inferencer_runs_code_only_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``to_torch`` writes pickled modules: to open one is to trust it, which anomalib leaves to a variable."""
    torch.save({"model": Bomb(tmp_path / "exploded")}, tmp_path / "model.pt")
    monkeypatch.delenv("TRUST_REMOTE_CODE", raising=False)
    with pytest.raises(ValueError, match="TRUST_REMOTE_CODE"):
        TorchInferencer(tmp_path / "model.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["../nut", "..", ".", "/tmp/nut", "nut/../pin", ""])  # noqa: S108  # only a name
def test_a_category_cannot_be_called_like_a_path(shop: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be called"):
        _ = MultiCategory(root=shop, categories=[name]).categories


def test_heatmaps_of_images_beside_the_dataset_stay_in_the_results(tmp_path: Path) -> None:
    write_category(tmp_path / "shop/nut")
    (tmp_path / "shop/nut/test/spot").rename(tmp_path / "spot")
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "../../spot"}
    data = MultiCategory(tmp_path / "shop", "all", "Folder", dataset_args=folders, num_workers=0)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    engine = Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)
    engine.test(as_if_trained(Grad(**TINY)), datamodule=data)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    heatmaps = [path for path in written if path.suffix == ".png"]
    assert len(heatmaps) == len(data.test_data) > 0
    assert {path.relative_to(tmp_path).parts[0] for path in written} == {"results"}


def test_the_table_shows_names_as_they_are() -> None:
    names = ("[bold]", "[link=x]y[/link]", "[/]")
    rows = [CategoryResult(name, 1, 1, 0.5, 0.5, 0.5, 0.5, threshold=0.5) for name in names]
    report = TestReport("Grad", rows, rows[0], [], ["a note on [red]"])
    console = Console(file=StringIO(), width=200)
    console.print(results_table(report))
    shown = console.file.getvalue()
    for text in (*names, "a note on [red]"):
        assert text in shown
