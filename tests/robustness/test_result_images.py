# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Every input has a result of its own, which shows what the model has read; one's fault costs no other its result."""

import json
import logging
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.visualization import ImageVisualizer
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_grad.adjustment.verdicts import read_verdicts
from anomalib_grad.data import MultiCategory, PredictImages
from anomalib_grad.lightning_model import Grad
from anomalib_grad.thresholds import PerCategoryPostProcessor
from bad_images import encoded
from helpers import as_if_trained, tiny, write_category
from whole_run import Process

LARGE = 5000
"""Height and width of a photograph of 25 megapixels."""


def engine(folder: Path, **options: Any) -> Engine:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet, **options)


def results(folder: Path) -> dict[str, str]:
    """Inputs by the names of their results, each of which is there."""
    (record,) = folder.rglob("inputs.json")
    inputs = json.loads(record.read_text())
    written = {path.relative_to(record.parent).as_posix() for path in record.parent.rglob("*") if path.is_file()}
    assert written - {"predictions.csv", "predictions_1.csv"} == {*inputs, record.name}
    return inputs


@pytest.fixture(scope="module")
def model() -> Grad:
    """A model that was trained for no time: what it thinks of an image does not matter here."""
    return as_if_trained(Grad(**tiny(mse_threshold=0.1)))


@pytest.fixture
def images(tmp_path: Path, shop: Path) -> Path:
    """Two images of one name, and what a system wrote beside them."""
    for folder, source in (("x", "nut"), ("y", "pin")):
        (tmp_path / "in" / folder / "good").mkdir(parents=True)
        shutil.copy(shop / source / "test/good/000.png", tmp_path / "in" / folder / "good/a.png")
        (tmp_path / "in" / folder / "good/._a.png").write_bytes(b"\0")
    return tmp_path / "in"


@pytest.mark.parametrize("library", ["anomalib", "own"])
def test_images_of_one_name_keep_their_results(
    images: Path, tmp_path: Path, model: Grad, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source: dict[str, Any] = {"data_path": images} if library == "anomalib" else {"dataset": PredictImages(images)}
    predicted = engine(tmp_path / "out").predict(model, **source)
    assert len(predicted) == 2  # hidden files are none
    anomalous = sum(int(batch.pred_label.sum()) for batch in predicted)
    said = f"{anomalous} of 2 images are anomalous; heatmaps and scores (predictions.csv) are in {tmp_path / 'out'}"
    assert said in caplog.text
    found = {f"{folder}/good/a.png": str(images / folder / "good/a.png") for folder in "xy"}
    assert results(tmp_path / "out") == found
    # another run into the same folder, of another image of a name that is taken
    shutil.copytree(images / "y", tmp_path / "later/x")
    engine(tmp_path / "out").predict(model, dataset=PredictImages(tmp_path / "later/x/good"))
    engine(tmp_path / "out").predict(model, dataset=PredictImages(tmp_path / "later/x/good"))
    later = str(tmp_path / "later/x/good/a.png")
    assert results(tmp_path / "out") == {**found, "good/a.png": later}
    # and their scores; those of the same image, which are the same, need not be kept
    assert caplog.text.count("the table of an earlier prediction was renamed to predictions_1.csv") == 1
    tables = {file.name: list(pd.read_csv(file)["path"]) for file in (tmp_path / "out").rglob("*.csv")}
    assert tables == {"predictions.csv": [later], "predictions_1.csv": list(found.values())}


def test_scores_of_a_prediction_are_a_table_in_which_people_mark_what_was_wrong(shop: Path, tmp_path: Path) -> None:
    raw = PerCategoryPostProcessor(enable_normalization=False)
    model = as_if_trained(Grad(**tiny(mse_threshold=0.1), post_processor=raw))
    model.post_processor.set_categories(["nut", "pin"])
    model.post_processor.category = "pin"  # told, as by Grad(category="pin")
    (tmp_path / "in").mkdir()
    odd = [os.fsdecode(name) for name in (b"=1+1.png", b'a,"b"\n.png', b"\xff.png")]
    for name, source in zip(odd, ("nut/test/good", "pin/test/good", "pin/test/spot"), strict=True):
        shutil.copy(shop / source / "000.png", tmp_path / "in" / name)
    predicted = engine(tmp_path / "out").predict(model, dataset=PredictImages(tmp_path / "in"))
    (file,) = tmp_path.rglob("predictions.csv")
    assert results(tmp_path / "out")
    table = pd.read_csv(file, dtype=object, encoding_errors="surrogateescape")
    assert list(table.columns) == ["path", "pred_score", "pred_label", "category", "right_label"]
    assert list(table["path"]) == [batch.image_path[0] for batch in predicted]
    assert {Path(path).name for path in table["path"]} == set(odd)
    np.testing.assert_array_equal(
        table["pred_score"].astype(np.float32), [batch.pred_score.item() for batch in predicted]
    )
    assert list(table["pred_label"]) == [str(batch.pred_label.item()) for batch in predicted]
    assert list(table["category"]) == ["pin"] * 3
    table["right_label"] = ["normal", None, "anomalous"]
    table.to_csv(file, index=False, errors="surrogateescape")
    verdicts = {"pin": [(Path(table["path"][0]), False), (Path(table["path"][2]), True)]}
    assert read_verdicts(file) == verdicts
    engine(tmp_path / "out").predict(model, dataset=PredictImages(tmp_path / "in"))
    assert read_verdicts(file.with_stem("predictions_1")) == verdicts


def test_a_visualizer_of_anomalibs_keeps_them_as_well(images: Path, tmp_path: Path) -> None:
    own = ImageVisualizer(fields=["image"], field_size=(50, 40), output_dir=tmp_path / "mine")
    model = as_if_trained(Grad(**tiny(mse_threshold=0.1), visualizer=own))
    engine(tmp_path / "out").predict(model, dataset=PredictImages(images))
    assert len(results(tmp_path / "mine")) == 2
    with Image.open(tmp_path / "mine/x/good/a.png") as result:
        assert result.width < 256


def test_products_of_different_roots_keep_their_results_in_a_test(shop: Path, tmp_path: Path, model: Grad) -> None:
    write_category(tmp_path / "far/pin", train=2)
    modules = {"nut": MVTecAD(shop, "nut", num_workers=0), "pin": MVTecAD(tmp_path / "far", "pin", num_workers=0)}
    data = MultiCategory(datamodules=modules, eval_batch_size=4, num_workers=0)
    engine(tmp_path / "out").test(model, datamodule=data)
    assert len(set(results(tmp_path / "out").values())) == 8


def test_each_run_writes_to_its_own_folder(images: Path, tmp_path: Path, model: Grad) -> None:
    for run in ("one", "two"):
        engine(tmp_path / run).predict(model, dataset=PredictImages(images))
        assert len(results(tmp_path / run)) == 2


def test_one_bad_image_costs_no_other_its_result(
    images: Path, tmp_path: Path, model: Grad, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "x/good/b.png").write_bytes(b"")
    found = engine(tmp_path / "out").predict(model, dataset=PredictImages(images, skip_unreadable=True))
    assert len(found) == len(results(tmp_path / "out")) == 2
    assert f"could not read image '{images / 'x/good/b.png'}'" in caplog.text


@pytest.mark.parametrize("bits", [16, 12])
def test_an_image_of_16_bits_is_shown_as_the_model_reads_it(
    tmp_path: Path, model: Grad, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    values = np.linspace(0, 2**bits - 1, 120 * 120).reshape(120, 120).astype(np.uint16)
    (tmp_path / "in/deep.png").write_bytes(encoded(Image.fromarray(values), format="PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # the guard refuses twice as many
    told = PredictImages(tmp_path / "in", bits=bits, max_pixels=120 * 120)
    engine(tmp_path / "out").predict(model, dataset=told)
    monkeypatch.undo()
    (result,) = (tmp_path / "out").rglob("deep.png")
    shown = np.asarray(Image.open(result))[64:, :256]  # below the title
    assert shown.mean() == pytest.approx(255 * values[30:].mean() / (2**bits - 1), abs=3)


def predict_on_small_then_large(folder: Path, note: Callable[[str], None]) -> None:
    """Note by how many MiB the memory that was needed at most grew."""
    model, peaks = as_if_trained(Grad(**tiny(mse_threshold=0.1))), []
    for name in ("small", "large"):
        images = PredictImages(folder / name, transform=Resize((64, 64)))
        engine(folder / f"results-{name}").predict(model, dataset=images, return_predictions=False)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    note(f"{peaks[1] - peaks[0]:.0f}")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mode"), [("deep.tif", "I;16"), ("colour.png", "RGB")])
def test_result_images_of_large_files_take_little_more_memory_than_their_pixels(
    tmp_path: Path, kind: str, mode: str
) -> None:
    for name, side in (("small", 72), ("large", LARGE)):
        (tmp_path / name).mkdir()
        Image.new(mode, (side, side), 99).save(tmp_path / name / kind)
    process = Process(predict_on_small_then_large, tmp_path, log=tmp_path / "log")
    grown = process.hear()
    process.finish()
    assert len(list((tmp_path / "results-large").rglob(f"*{Path(kind).suffix}"))) == 1
    assert float(grown or "nan") < 300  # 190 and 194; in floating point and three channels 619
