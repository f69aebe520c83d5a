# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged checkpoints and files that are none: the error names them in one sentence."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Trainer
from PIL import Image

from anomalib_grad.adjustment import read_thresholds
from anomalib_grad.checkpoint.from_authors import save_model
from anomalib_grad.files.checkpoint_reading import CheckpointFileError, restore
from anomalib_grad.files.configuration import CheckpointConfigurationError
from anomalib_grad.lightning_model import Grad
from helpers import TINY, tiny, write_category


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model, before any training."""
    path = tmp_path_factory.mktemp("checkpoint") / "whole.ckpt"
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Grad(**TINY))
    trainer.save_checkpoint(path)
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_bytes(path: Path) -> None:
    """Damage the entry that is read first, which torch notices."""
    with ZipFile(path) as archive:
        start = next(entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")).header_offset
    content = bytearray(path.read_bytes())
    content[start + 200 : start + 2000] = bytes(1800)
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_text("<html>404 not found</html>")


def image(path: Path) -> None:
    Image.new("RGB", (9, 9)).save(path, format="png")


def archive(path: Path) -> None:
    with ZipFile(path, "w") as file:
        file.writestr("report/notes.txt", "nothing")


def bare_weights(path: Path) -> None:
    torch.save(Grad(**TINY).state_dict(), path)


def tensor(path: Path) -> None:
    torch.save(torch.ones(3), path)


def whole_module(path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, path)


def cut_one_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit_of_a_weight(path: Path) -> None:
    """Torch does not notice: it reads the parts that hold weights without comparing their check sums."""
    with ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def lose_a_part(path: Path) -> None:
    with ZipFile(path) as source:
        parts = {entry.filename: source.read(entry) for entry in source.infolist()}
    with ZipFile(path, "w") as target:
        for name, content in parts.items():
            if not name.endswith("/data/3"):
                target.writestr(name, content)


WEIGHT = "model.head.fusion.recover.weight"


def with_weight(value: object, name: str = WEIGHT) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        content["state_dict"][name] = value
        torch.save(content, path)

    return change


def with_part(name: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        torch.save({**torch.load(path, weights_only=True), name: value}, path)

    return change


def without_weights(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["state_dict"]
    torch.save(content, path)


def of_integers(path: Path) -> None:
    with_weight(torch.load(path, weights_only=True)["state_dict"][WEIGHT].to(torch.int8))(path)


def without_one_weight(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["state_dict"][WEIGHT]
    torch.save(content, path)


def of_another_model(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["grad_configuration"]
    torch.save(content, path)


def with_setting(part: str, **settings: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        torch.save({**content, part: {**content[part], **settings}}, path)

    return change


NAN = torch.full((4,), torch.nan)

DAMAGES = [
    (cut, "it is cut short"),
    (cut_one_byte, "it is cut short"),
    (flip_a_bit_of_a_weight, "it is damaged"),
    (lose_a_part, "it is damaged"),
    (with_weight("text"), f"its weight {WEIGHT!r} is not a tensor"),
    (with_weight(torch.eye(2).to_sparse()), "it holds Python objects"),
    (with_weight(torch.ones(4, device="meta")), rf"its weight {WEIGHT!r} of shape \(4,\) is not stored in full"),
    (with_weight(torch.full((4,), 1e300, dtype=torch.float64)), f"its weight {WEIGHT!r} has NaN or infinite values"),
    (with_weight(torch.tensor(torch.inf), "post_processor.image_min"), "its 'post_processor.image_min' is infinite"),
    (with_part("grad_configuration", [1]), "its 'grad_configuration' has a type that no training writes"),
    (with_part("pytorch-lightning_version", 5), "it is a PyTorch file, but not a checkpoint of a training"),
    (with_weight(NAN), f"its weight {WEIGHT!r} has NaN or infinite values, as after a training that diverged"),
    (without_weights, "it is a PyTorch file, but not a checkpoint of a training"),
    (with_part("callbacks", [1]), "its 'callbacks' has a type that no training writes"),
    (with_part("optimizer_states", {}), "its 'optimizer_states' has a type that no training writes"),
    (empty, "it is empty"),
    (change_bytes, "it is damaged"),
    (text, "it is not a checkpoint"),
    (image, "it is not a checkpoint"),
    (archive, "it is a zip archive that PyTorch did not write"),
    (bare_weights, "it is a PyTorch file, but not a checkpoint of a training"),
    (tensor, "it is a PyTorch file, but not a checkpoint of a training"),
    (
        whole_module,
        r"it holds Python objects \(first: 'torch\.nn\.modules\.linear\.Linear'\), as an exported model does",
    ),
]


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(whole.read_bytes())
    return path


@pytest.mark.parametrize(("damage", "fault"), DAMAGES)
def test_load_from_checkpoint_names_the_file(damaged: Path, damage: Callable[[Path], None], fault: str) -> None:
    damage(damaged)
    with pytest.raises(CheckpointFileError) as raised:
        Grad.load_from_checkpoint(damaged)
    message = str(raised.value)
    assert re.match(f"cannot read checkpoint {damaged}: {fault}", message)
    assert message.endswith("; copy it again, or give another checkpoint of Grad.")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("run", "damage", "fault"),
    [
        ("test", cut, "it is cut short"),
        ("test", bare_weights, "it is a PyTorch file, but not a checkpoint of a training"),
        ("test", whole_module, "it holds Python objects"),
        ("predict", empty, "it is empty"),
        ("predict", with_weight(NAN), f"its weight {WEIGHT!r} has NaN or infinite values"),
        ("test", flip_a_bit_of_a_weight, "it is damaged"),
        ("fit", text, "it is not a checkpoint"),
    ],
)
def test_the_engine_names_the_file(
    run: str, damaged: Path, tmp_path: Path, damage: Callable[[Path], None], fault: str
) -> None:
    damage(damaged)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    with pytest.raises(Exception, match=f"cannot read checkpoint {damaged}: {fault}"):
        getattr(engine, run)(Grad(**TINY), ckpt_path=damaged, **data(run, tmp_path))


def data(run: str, folder: Path) -> dict[str, Any]:
    write_category(folder / "data/nut")
    if run == "predict":
        return {"data_path": folder / "data/nut/test/spot"}
    return {"datamodule": MVTecAD(root=folder / "data", category="nut", num_workers=0)}


def test_the_newest_whole_checkpoint_beside_a_damaged_one_is_named(
    damaged: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("newer.ckpt", "older.ckpt")):
        damaged.with_name(name).write_bytes(whole.read_bytes())
        os.utime(damaged.with_name(name), (1e9 - age, 1e9 - age))
    os.mkfifo(damaged.with_name("pipe.ckpt"))
    useless = {"empty": empty, "flipped": flip_a_bit_of_a_weight, "nan": with_weight(NAN), "other": of_another_model}
    for name, damage in useless.items():
        newest = damaged.with_name(f"{name}.ckpt")
        newest.write_bytes(whole.read_bytes())
        damage(newest)
    cut(damaged)
    monkeypatch.chdir(damaged.parent)
    for given in (damaged, damaged.name):
        with pytest.raises(
            CheckpointFileError, match=rf"checkpoint {given}: .* or use newer\.ckpt, which is undamaged"
        ):
            Grad.load_from_checkpoint(given)


def test_other_errors_stay_as_they_are(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointConfigurationError, match="num_blocks is 1 in the checkpoint but 2 in this model"):
        Grad.load_from_checkpoint(whole, method={"num_blocks": 2})
    with pytest.raises(FileNotFoundError, match=r"missing\.ckpt"):
        Grad.load_from_checkpoint(tmp_path / "missing.ckpt")
    with pytest.raises(RuntimeError, match="nowhere"):
        Grad.load_from_checkpoint(whole, map_location="nowhere")
    assert isinstance(Grad.load_from_checkpoint(whole), Grad)


def test_a_checkpoint_of_another_model_is_named_whatever_its_arguments(damaged: Path) -> None:
    with_setting("hyper_parameters", n_features=20)(damaged)
    of_another_model(damaged)
    with pytest.raises(CheckpointConfigurationError, match="not written by Grad but by another model"):
        Grad.load_from_checkpoint(damaged)


def test_a_refused_checkpoint_is_not_loaded_by_the_next_run(whole: Path, tmp_path: Path) -> None:
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    images, other = data("predict", tmp_path), {**TINY, "method": {"num_blocks": 2}}
    with pytest.raises(CheckpointConfigurationError, match="num_blocks"):
        engine.predict(Grad(**other), ckpt_path=whole, **images)
    with pytest.raises(ValueError, match="never trained"):
        engine.predict(Grad(**other), **images)


def test_settings_computed_with_numpy_come_back_as_plain_numbers(tmp_path: Path) -> None:
    given = tiny(learning_rate=np.float64(0.002), jitter_std=np.float64(0.1))
    save_model(Grad(**given, false_alarm_rate=np.float64(0.05)), path := tmp_path / "model.ckpt")
    loaded = Grad.load_from_checkpoint(path)
    values = (
        loaded.settings.training.learning_rate,
        loaded.settings.method.jitter_std,
        loaded.post_processor.false_alarm_rate,
    )
    assert values == (0.002, 0.1, 0.05)
    assert {type(value) for value in values} == {float}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without_one_weight, "is missing"),
        (with_weight(torch.ones(3)), r"has shape \(3,\), not \(.*\)"),
        (of_integers, r"has type torch\.int8, not torch\.float32"),
    ],
)
def test_weights_that_do_not_fit_are_named(damaged: Path, change: Callable[[Path], None], fault: str) -> None:
    change(damaged)
    advice = "the file was changed after training; give the checkpoint that Grad wrote."
    sentence = f"the checkpoint's weight {WEIGHT!r} {fault}: {advice}"
    with pytest.raises(CheckpointConfigurationError, match=f"^cannot use checkpoint {damaged}: {sentence}$"):
        Grad.load_from_checkpoint(damaged)


POST, PRE, OWN = "anomalib_post_processor_config", "anomalib_pre_processor_config", "grad_configuration"
MEANS, RADIUS = "post_processor.recogniser.means", "post_processor.recogniser.radius"
TILES = {"tile_size": [32, 32], "stride": [32, 32], "remove_border_count": 0, "mode": "padding"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (with_setting(OWN, tiling="tiles"), "'tiling' cannot be used"),
        (with_setting(OWN, tiling={**TILES, "mode": "other"}), "'tiling' cannot be used .*'other' is not a valid"),
        (with_setting(OWN, tiling={**TILES, "tile_size": None}), "'tiling' cannot be used"),
        (with_setting(OWN, tiling={**TILES, "tile_size": [10**9, 10**9]}), "'tiling' .*larger than the model's input"),
        (with_setting(PRE, transform=[1]), "pre-processor or post-processor cannot be used .*Transform spec"),
        (with_setting(PRE, transform={"class_path": "os.system", "init_args": {}}), "pre-processor .*os.system"),
        (
            with_setting(POST, categories="abc"),
            "pre-processor or post-processor .*categories='abc' is not a list of names",
        ),
        (with_setting(POST, categories=["a", "a"]), "pre-processor or post-processor .*'a'.* more than once"),
        (with_setting(POST, categories=["a", 1]), "pre-processor or post-processor .* is not a list of names"),
        (with_setting(POST, enable_thresholding="no"), "pre-processor or post-processor .*enable_thresholding='no'"),
        (with_setting(POST, image_sensitivity=torch.nan), "pre-processor or post-processor .*image_sensitivity=nan"),
        (with_setting(POST, false_alarm_rate=[1]), r"pre-processor or post-processor .*false_alarm_rate=\[1\]"),
        (with_setting(POST, categories=["a"]), r"weight 'post_processor\.category_image_threshold' has shape \(0,\)"),
        (
            with_weight(torch.ones(2, 3), MEANS),
            f"weight {MEANS!r} has",
        ),
        (
            with_weight(torch.ones(4, 1, 1), RADIUS),
            f"weight {RADIUS!r} has",
        ),
    ],
)
def test_settings_of_no_training_are_refused_by_name(damaged: Path, change: Callable[[Path], None], fault: str) -> None:
    change(damaged)
    with pytest.raises(
        CheckpointConfigurationError, match=f"^cannot use checkpoint {damaged}: the checkpoint's {fault}"
    ) as raised:
        Grad.load_from_checkpoint(damaged)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(": the file was changed after training; give the checkpoint that Grad wrote.")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (with_setting("hyper_parameters", recipe="ultra"), "there is no recipe 'ultra'; choose one of .*plus"),
        (with_setting("hyper_parameters", knob=1), "Grad has no argument 'knob'"),
        (with_setting("hyper_parameters", training={"knob": 1}), "training has no setting 'knob'; its settings are .*"),
        (with_setting("hyper_parameters", training={"steps": -1}), "steps .*-1"),
    ],
)
@pytest.mark.parametrize("read", [Grad.load_from_checkpoint, lambda path: restore(Grad(**tiny()), path, ())])
def test_settings_of_a_newer_version_are_not_taken_for_the_users(
    damaged: Path, change: Callable[[Path], None], fault: str, read: Callable[[Path], object]
) -> None:
    change(damaged)
    advice = "a newer version of anomalib-grad wrote it, or it was changed after training; install the version that "
    sentence = rf"the checkpoint's settings cannot be used \({fault}\): {advice}"
    with pytest.raises(CheckpointConfigurationError, match=f"^cannot .* {damaged}: {sentence}"):
        read(damaged)


@pytest.mark.parametrize("names", [["a"], ["a", "a"], "abc"])
def test_no_thresholds_are_read_from_a_changed_checkpoint(damaged: Path, names: object) -> None:
    with_setting(POST, categories=names)(damaged)
    sentence = "the checkpoint's .*; give the checkpoint that Grad wrote"
    with pytest.raises(CheckpointConfigurationError, match=rf"^cannot use checkpoint {damaged}: {sentence}\.$"):
        read_thresholds(damaged)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    message = f"cannot read checkpoint {tmp_path}: it is a folder; give the .ckpt"
    with pytest.raises(CheckpointFileError, match=message):
        Grad.load_from_checkpoint(tmp_path)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    with pytest.raises(CheckpointFileError, match=message):
        engine.predict(Grad(**TINY), ckpt_path=tmp_path, **data("predict", tmp_path))


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*lost\.ckpt; give a \.ckpt file"):
        engine.export(Grad(**TINY), "openvino", ckpt_path=tmp_path / "lost.ckpt")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.ckpt")
    with pytest.raises(
        CheckpointFileError, match=f"cannot read checkpoint {pipe}: it is a pipe or a device, not a file;"
    ):
        Grad.load_from_checkpoint(pipe)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    with pytest.raises(CheckpointFileError, match=f"{pipe}: it is a pipe or a device, not a file;"):
        engine.test(Grad(**TINY), ckpt_path=pipe, **data("test", tmp_path))
