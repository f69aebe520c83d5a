# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds that are changed in checkpoints and exports change the verdicts of every inferencer."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from PIL import Image

from anomalib_grad.adjustment import change, correct, fit, read_thresholds, set_threshold
from anomalib_grad.adjustment.change import changing
from anomalib_grad.adjustment.model_files import open_model
from anomalib_grad.adjustment.summary import in_words
from anomalib_grad.adjustment.verdicts import read_verdicts
from anomalib_grad.data import MultiCategory
from anomalib_grad.data.read_or_refuse import read_image
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.deploy.checksum import seal
from anomalib_grad.deploy.quantization import quantize_with_accuracy_control
from anomalib_grad.lightning_model import Grad
from anomalib_grad.thresholds.__main__ import main
from exports import to_both, traced
from helpers import TINY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trusting")]

KINDS = ["checkpoint", "onnx", "half", "quantised", "torch"]
SENSITIVITY = 0.3
"""Of the export to torch; ``test_export_compression.py`` has a graph of another, all others have 0.5."""


@pytest.fixture(scope="module")
def trained(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of two products in every kind of file. Not to be changed by tests."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("trained")
    model = Grad(**TINY | {"backbone": "grad_tiny", "pre_trained": True})
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0)
    engine = Engine(default_root_dir=root, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    model.post_processor.recogniser.radius *= 3  # rounded weights move few images of nearly the same looks
    engine.trainer.save_checkpoint(root / "model.ckpt")
    files = {"checkpoint": root / "model.ckpt", **to_both(model, root)}
    with traced(model, files["onnx"]):
        files["half"] = model.to_openvino(root / "half", compression_type=CompressionType.FP16)
    model.post_processor.image_sensitivity = SENSITIVITY
    files["torch"] = model.to_torch(root)
    graph = ov.convert_model(files["onnx"])  # as to_openvino does, which exports to ONNX once more
    quantised = quantize_with_accuracy_control(graph, data, max_drop=1.0)  # INT8_ACQ; what INT8_PTQ gives, measured
    (root / "quantised").mkdir()
    files["quantised"] = root / "quantised" / "model.xml"
    ov.save_model(quantised, files["quantised"], compress_to_fp16=False)
    seal(files["quantised"])
    return files


@pytest.fixture
def model(request: pytest.FixtureRequest, trained: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the model in the kind of file that the test asks for."""
    kind = getattr(request, "param", "openvino")
    folder = tmp_path / "deployed"
    folder.mkdir()
    source = trained[kind]
    for file in (source, source.with_suffix(".bin")):
        if file.exists():
            shutil.copy(file, folder / file.name)
    return folder / source.name


def verdicts(model: Path, image: Path) -> dict[str, tuple[float, bool]]:
    """Score and label of an image by every inferencer that reads such a file."""
    if model.suffix == ".ckpt":
        with torch.no_grad():
            found = {"Grad": Grad.load_from_checkpoint(model).eval()(read_image(image)[None])}
    elif model.suffix == ".pt":
        found = {"TorchInferencer": TorchInferencer(model, device="cpu").predict(image)}
    else:
        found = {
            "anomalib's": OpenVINOInferencer(model, device="CPU").predict(image),
            "by product": CategoryOpenVINOInferencer(model, device="CPU").predict(image),
        }
    return {
        name: (float(np.ravel(one.pred_score)[0]), bool(np.ravel(one.pred_label)[0])) for name, one in found.items()
    }


def labels(model: Path, image: Path) -> list[bool]:
    return [label for _, label in verdicts(model, image).values()]


def told(model: Path, image: Path, product: str = "nut") -> bool:
    """Label of an image whose product is named: in other light it need not be recognised."""
    if model.suffix == ".ckpt":
        found = Grad.load_from_checkpoint(model, category=product).eval()(read_image(image)[None])
    else:
        found = CategoryOpenVINOInferencer(model, device="CPU").predict(image, category=product)
    return bool(np.ravel(found.pred_label)[0])


def darkened(shop: Path, folder: Path, product: str = "nut") -> Path:
    """The good parts of a product in less light."""
    folder.mkdir(parents=True)
    for image in (shop / product / "train/good").glob("*.png"):
        Image.fromarray((np.asarray(Image.open(image)) * 0.5).astype(np.uint8)).save(folder / image.name)
    return folder


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_every_inferencer_judges_by_the_threshold_that_was_set(model: Path, shop: Path):
    nut, pin = (shop / name / "test/good/000.png" for name in ("nut", "pin"))
    other = verdicts(model, pin)
    score = open_model(model).score(nut, "nut").score
    for factor, anomalous in ((0.9, True), (1.1, False)):
        set_threshold(model, "nut", threshold=factor * score)
        assert labels(model, nut) == [anomalous] * len(other), factor
        for value, label in verdicts(model, nut).values():
            assert (value > 1 - read_thresholds(model).image_sensitivity) == label
        assert read_thresholds(model).threshold("nut") == pytest.approx(factor * score, rel=1e-5)
    assert verdicts(model, pin) == other


@pytest.mark.parametrize("model", ["half", "quantised", "torch"], indirect=True)
def test_a_sensitivity_is_of_the_fitted_threshold_whatever_the_model_has(model: Path, trained: dict[str, Path]):
    stricter = set_threshold(model, "nut", sensitivity=0.8).threshold("nut")
    again = shutil.copytree(trained["openvino"].parent, model.parent / "plain") / "model.xml"
    assert stricter == pytest.approx(set_threshold(again, "nut", sensitivity=0.8).threshold("nut"), rel=1e-5)
    assert stricter < set_threshold(model, "nut", sensitivity=0.5).threshold("nut")


@pytest.mark.parametrize("model", ["checkpoint", "quantised"], indirect=True)
def test_images_of_another_product_are_counted(model: Path, shop: Path, caplog: pytest.LogCaptureFixture):
    fit(model, shop / "nut/train/good", "nut")
    assert "The model recognises" not in caplog.text
    fit(model, shop / "nut/train/good", "pin")
    (said,) = [message for message in caplog.messages if "recognises" in message]
    assert said.startswith("The model recognises 6 of 6 images as nut (6), not as pin. Where it recognises products")
    assert "the threshold of pin has no effect on them" in said


@pytest.mark.parametrize("model", ["checkpoint", "quantised"], indirect=True)
def test_fit_takes_other_light_for_normal(model: Path, shop: Path, tmp_path: Path):
    dark = darkened(shop, tmp_path / "dark")
    image = sorted(dark.iterdir())[0]
    opened = open_model(model)
    scores = [opened.score(one, "nut").score for one in sorted(dark.iterdir())]
    set_threshold(model, "nut", threshold=0.9 * min(scores))
    assert told(model, image)
    thresholds = fit(model, dark, "nut")
    assert not told(model, image)
    record = thresholds.record("nut")
    assert record is not None
    assert (record.rule, record.seen) == ("highest normal score", (6, 0))
    assert [change.what for change in record.history][-1] == "highest normal score"
    assert max(scores) < thresholds.threshold("nut") < 1.0002 * max(scores)


def test_the_evidence_is_that_of_the_validation(trained: dict[str, Path]):
    exported, checkpoint = read_thresholds(trained["openvino"]), read_thresholds(trained["checkpoint"])
    assert exported.records == checkpoint.records
    np.testing.assert_array_equal(exported.table, checkpoint.table)
    np.testing.assert_array_equal(read_thresholds(trained["half"]).table, checkpoint.table)  # not rounded
    names = [image.name for image in exported.images("nut")]
    assert sorted(names) == ["good/000.png", "good/001.png", "spot/000.png", "spot/001.png"]
    assert exported.record("nut").rule == "best F1"
    assert len(exported.images("unknown")) == 8


def test_show_prints_a_row_per_product(trained: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    assert main(["show", str(trained["onnx"])]) == 0
    printed = capsys.readouterr().out
    (nut,) = [line for line in printed.splitlines() if line.strip().startswith("nut")]
    assert f"{read_thresholds(trained['onnx']).threshold('nut'):.6g}" in nut
    assert "2 normal, 2 anomalous (validation)" in nut
    assert "of 2:" in nut


def test_a_promise_beyond_the_images_is_called_extrapolated(model: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["set", str(model), "--product", "nut", "--false-alarms", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "promised 1 %" in printed
    said = "nut: WARNING: the false alarm rate of 1 % is extrapolated: 2 normal images can show no rate below 33 %"
    assert said in printed
    assert main(["set", str(model), "--product", "nut", "--sensitivity", "0.5"]) == 0  # of what was fitted by it
    assert "false alarms 0.01" in capsys.readouterr().out  # the history


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["set", "MODEL", "--product", "cup", "--threshold", "1"],
            "no product 'cup'; choose one of: nut, pin, unknown.",
        ),
        (["set", "MODEL", "--threshold", "1"], "Name the product; choose one of: nut, pin, unknown."),
        (["set", "MODEL", "--product", "nut", "--threshold", "nan"], "must be a finite float32 number"),
        (["set", "MODEL", "--product", "nut", "--threshold", "1e300"], "must be a finite float32 number"),
        (["set", "MODEL", "--product", "nut", "--threshold", "-1e300"], "must be a finite float32 number"),
        (["set", "MODEL", "--product", "nut", "--sensitivity", "-1e-3"], "must lie between 0 and 1"),
        (["set", "MODEL", "--product", "nut", "--false-alarms", "1.5"], "must lie between 0 and 1"),
        (["set", "MODEL", "--product", "nut", "--sensitivity", "-1"], "must lie between 0 and 1"),
        (["fit", "MODEL", "--product", "nut", "--images", "nowhere"], "no image or folder nowhere"),
        (["correct", "MODEL", "nowhere"], "nowhere does not exist; give a folder of verdicts"),
        (["show", "nowhere.xml"], "no model nowhere.xml"),
        (["show", "model.h5"], "Pass a checkpoint (.ckpt) or an export"),
    ],
)
def test_wrong_arguments_are_answered_by_a_sentence_and_change_nothing(
    model: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    before = model.read_bytes(), model.with_suffix(".bin").read_bytes()
    assert main([str(model) if word == "MODEL" else word for word in arguments]) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert (model.read_bytes(), model.with_suffix(".bin").read_bytes()) == before


def test_the_command_prints_no_warnings_of_other_packages():
    command = [sys.executable, "-m", "anomalib_grad.thresholds", "show", "nowhere.xml"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "error: there is no model nowhere.xml; check the path.\n")


def test_images_that_cannot_be_read_are_named_and_left_out(
    model: Path, shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    folder = darkened(shop, tmp_path / "dark")
    (folder / "half.png").write_bytes((folder / "000.png").read_bytes()[:300])
    fit(model, folder, "nut")
    assert "left out 1 of 7 images, which cannot be read:" in caplog.text
    assert "half.png" in caplog.text
    before = model.read_bytes()
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(folder / "half.png", only)
    assert main(["fit", str(model), "--product", "nut", "--images", str(only)]) == 1
    assert f"no image in {only} can be read" in capsys.readouterr().err
    assert model.read_bytes() == before


@pytest.mark.parametrize("model", ["onnx", "openvino"], indirect=True)
def test_an_export_that_was_changed_by_hand_is_refused(model: Path):
    content = model.read_bytes()
    model.write_bytes(content.replace(b"best F1", b"best F2"))
    with pytest.raises(ValueError, match="changed by hand"):
        set_threshold(model, "nut", threshold=1.0)
    assert model.read_bytes() == content.replace(b"best F1", b"best F2")


@pytest.mark.parametrize("model", ["checkpoint", "onnx", "openvino", "torch"], indirect=True)
def test_a_model_that_was_written_half_is_refused_by_a_sentence(model: Path, capsys: pytest.CaptureFixture[str]):
    half = model.read_bytes()[: model.stat().st_size // 2]
    model.write_bytes(half)
    assert main(["set", str(model), "--product", "nut", "--threshold", "1"]) == 1
    printed = capsys.readouterr().err
    sentence = rf"error: cannot (use|read) [\w ]*{model}: it is (damaged|cut short)[^.\n]*\.\n"
    assert re.fullmatch(sentence, printed)
    assert model.read_bytes() == half


def test_a_kill_between_the_two_files_leaves_the_old_model(model: Path, monkeypatch: pytest.MonkeyPatch):
    before = read_thresholds(model).threshold("nut")
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).suffix == ".xml":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            set_threshold(model, "nut", threshold=2 * before)
    assert read_thresholds(model).threshold("nut") == before
    CategoryOpenVINOInferencer(model, device="CPU")  # whose seal it checks
    set_threshold(model, "nut", threshold=2 * before)
    assert read_thresholds(model).threshold("nut") == pytest.approx(2 * before, rel=1e-6)


def test_two_processes_change_one_after_the_other(model: Path, monkeypatch: pytest.MonkeyPatch):
    deployed = set(model.parent.iterdir())
    with changing(model) as (file, thresholds):
        monkeypatch.setattr(change, "WAIT_SECONDS", 0.1)
        with pytest.raises(ValueError, match="another process is changing"):
            set_threshold(model, "pin", threshold=3.0)
        thresholds.set_threshold("nut", 2.0)
        file.write(thresholds)
    set_threshold(model, "pin", threshold=3.0)
    assert [read_thresholds(model).threshold(name) for name in ("nut", "pin")] == [2.0, 3.0]
    monkeypatch.undo()
    with ThreadPoolExecutor(4) as others:
        list(others.map(lambda number: set_threshold(model, "nut", threshold=3.0 + number), range(8)))
    assert len(read_thresholds(model).record("nut").history) == 9, "no change is lost"
    assert set(model.parent.iterdir()) == deployed, "nothing is left beside the model"


def test_corrections_are_followed_and_what_they_cost_is_said(
    model: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A good part that was stopped, among known ones that are told apart, and a bad one that looks like good ones."""
    dark = darkened(shop, tmp_path / "verdicts/nut/false_alarms")
    missed = tmp_path / "verdicts/nut/missed"
    missed.mkdir()
    shutil.copy(shop / "nut/train/good/001.png", missed / "bad.png")
    opened = open_model(model)
    scores = [opened.score(one, "nut").score for one in (*dark.iterdir(), missed / "bad.png")]
    assert scores[-1] < min(scores[:-1])
    set_threshold(model, "nut", threshold=(scores[-1] + min(scores[:-1])) / 2)
    before = model.read_bytes()
    assert main(["correct", str(model), str(tmp_path / "verdicts"), "--dry-run"]) == 0
    assert "would be" in capsys.readouterr().out
    assert model.read_bytes() == before
    done = correct(model, read_verdicts(tmp_path / "verdicts"))
    ((_, after),) = done.thresholds.values()
    assert read_thresholds(model).threshold("nut") == after
    by_name = {one.image.name: one for one in done.corrections}
    assert len(by_name) == 7
    bad = by_name["missed/bad.png"]
    assert bad.against  # normal images with a higher score: no threshold can mend it
    assert read_thresholds(model).record("nut").seen == (8, 3)
    assert read_thresholds(model).record("nut").rule == "best F1, corrected by 6 false alarms and 1 missed image"
    for one in done.corrections:
        assert one.after == (one.image.score > after)
    (files,) = read_verdicts(tmp_path / "verdicts").values()
    right = [file for file, one in zip(files, done.corrections, strict=True) if one.after == one.image.anomalous]
    written = model.stat().st_mtime_ns
    again = correct(model, {"nut": right})
    assert model.stat().st_mtime_ns == written
    assert again.thresholds == {"nut": (after, after)}, "nothing was judged wrongly"
    assert read_thresholds(model).record("nut").rule == "best F1, corrected by 6 false alarms and 1 missed image"
    assert in_words(again) == [
        f"nut: the threshold stays at {after:.6g}; it judges {len(right)} given images correctly."
    ]
