# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""examples/batch_inference.py on real files: killed, gone on with, and compared with the inferencer image by image."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from anomalib.engine import Engine
from PIL import Image

from anomalib_grad.data import MultiCategory
from anomalib_grad.data.read_or_refuse import DEFAULT_FORMAT
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.lightning_model import Grad
from helpers import tiny, write_category

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "examples" / "batch_inference.py"
READABLE, UNREADABLE = 38, 2


class Judged(NamedTuple):
    """What two runs of one command left, the first of which was killed."""

    out: Path
    first: pd.DataFrame
    both: pd.DataFrame
    printed: str


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder in which everything happens."""
    folder = tmp_path_factory.mktemp("batch")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def model(folder: Path, shop: Path) -> Path:
    """A model that knows nuts and pins."""
    model = Grad(**tiny(max_epochs=1))
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0, seed=0)
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    for name in ("image_min", "category_image_min"):  # below which scores would be equal
        getattr(model.post_processor, name).mul_(0.2)
    return model.to_openvino(folder)


@pytest.fixture(scope="module")
def images(folder: Path) -> Path:
    """Nuts and pins of two sizes, a damaged file, one that is no image, and one that does not look like one."""
    root = folder / "images"
    for name, good in (("nut", 19), ("pin", 17)):
        write_category(root / name, train=0, good=good, defects=1)
        for number, path in enumerate(sorted(root.glob(f"{name}/test/*/*.png"))):
            width = 810 if number % 3 else 720
            Image.open(path).resize((width, 720), Image.Resampling.NEAREST).save(path)
    whole = (root / "pin/test/good/000.png").read_bytes()
    (root / "pin/cut_off.png").write_bytes(whole[: len(whole) // 2])
    (root / "nut/no_image.jpg").write_text("no image")
    (root / "nut/notes.txt").write_text("notes")
    return root


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder)}  # Ray puts a key for its processes there


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    call = command(*arguments)
    return subprocess.run(call, cwd=cwd, env=environment(cwd), capture_output=True, text=True, timeout=600, check=False)


def kill_after_a_file(*arguments: object, out: Path, cwd: Path) -> None:
    """Run the script, kill it as soon as it has finished a file of its results, and wait for its worker to end."""
    deadline, workers = time.monotonic() + 600, []
    with (cwd / "killed.txt").open("w") as printed:
        process = subprocess.Popen(command(*arguments), cwd=cwd, env=environment(cwd), stdout=printed, stderr=printed)
        try:
            while not list(out.glob("predictions/*.parquet")):
                assert process.poll() is None, (cwd / "killed.txt").read_text()[-3000:]
                assert time.monotonic() < deadline, (cwd / "killed.txt").read_text()[-3000:]
                time.sleep(0.005)
            descendants = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in descendants if "MapBatches" in " ".join(child.cmdline())]
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert len(workers) == 1
    assert psutil.wait_procs(workers, timeout=60)[1] == []


@pytest.fixture(scope="module")
def judged(folder: Path, model: Path, images: Path) -> Judged:
    out = folder / "out"
    arguments = (model, "images", "--out", "out", "--maps", "--batch-size", 4, "--rows-per-file")
    kill_after_a_file(*arguments, 2, "--workers", 1, out=out, cwd=folder)
    first = pd.read_parquet(out / "predictions")
    (out / "predictions" / ".half_written.parquet").write_bytes(b"PAR1")
    done = run(*arguments, 8, "--workers", 2, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Judged(out, first, pd.read_parquet(out / "predictions"), done.stdout)


def test_a_killed_run_is_gone_on_with_and_every_image_has_one_row(judged: Judged, images: Path) -> None:
    assert 0 < len(judged.first) < READABLE
    expected = {str(path) for path in images.glob("*/test/*/*.png")} | {
        str(images / "nut/no_image.jpg"),
        str(images / "pin/cut_off.png"),
    }
    assert len(judged.both) == len(expected) == READABLE + UNREADABLE
    assert set(judged.both["path"]) == expected
    assert f"40 images, {len(judged.first)} of them finished in earlier runs" in judged.printed
    assert [path.name for path in judged.out.glob("predictions/.*")] == []

    again = judged.both.set_index("path").loc[judged.first["path"]].reset_index()
    # Columns of a part without unreadable images have narrower types.
    pd.testing.assert_frame_equal(again[judged.first.columns], judged.first, check_dtype=False)


def test_scores_labels_categories_and_maps_are_the_inferencers(judged: Judged, model: Path) -> None:
    inferencer = CategoryOpenVINOInferencer(model, device="CPU")
    readable = judged.both[judged.both["error"].isna()]
    assert len(readable) == READABLE
    for row in readable.itertuples():
        alone = inferencer.predict(row.path)
        assert row.pred_score == pytest.approx(alone.pred_score.item(), abs=1e-5)
        assert row.pred_label == alone.pred_label.item()
        assert row.category == alone.explanation[0]
        written = np.asarray(Image.open(judged.out / row.map_path), dtype=np.float32) / 255
        np.testing.assert_allclose(written, alone.anomaly_map.squeeze(), atol=0.5 / 255 + 1e-5)
    assert {"nut", "pin"} <= set(readable["category"])
    assert readable["pred_score"].nunique() == READABLE


def test_what_cannot_be_read_has_the_reason_and_no_score(judged: Judged) -> None:
    failed = judged.both[judged.both["error"].notna()].set_index("path")
    errors = {Path(path).name: error for path, error in failed["error"].items()}
    assert errors.keys() == {"cut_off.png", "no_image.jpg"}
    assert "truncated" in errors["cut_off.png"]
    assert "not an image in a format" in errors["no_image.jpg"]
    assert failed.drop(columns="error").isna().all(axis=None)
    assert "40 images, 2 of them unreadable" in judged.printed


def test_the_summary_counts_the_anomalous_of_each_category(judged: Judged) -> None:
    for category, rows in judged.both.dropna(subset=["category"]).groupby("category"):
        counts = f"{rows['pred_label'].sum()} of {len(rows)} anomalous"
        assert f"{category} {counts}" in " ".join(judged.printed.split())


def test_a_worker_can_be_told_the_category(folder: Path, model: Path, images: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    place, out = script["Place"].parse, folder / "told"
    (out / "predictions").mkdir(parents=True)
    settings = script["Settings"](
        model=script["read_model"](model),
        images=place(str(images)),
        out=place(str(out)),
        category="pin",
        maps=False,
        batch_size=2,
        threads=1,
        files=DEFAULT_FORMAT,
    )
    paths = [str(images / name) for name in ("nut/test/good/000.png", "pin/test/good/000.png", "nut/test/spot/000.png")]
    script["Judge"](settings)(pa.table({"path": paths}))

    inferencer, rows = CategoryOpenVINOInferencer(model, device="CPU"), pd.read_parquet(out / "predictions")
    assert rows["path"].tolist() == paths
    assert rows["category"].tolist() == ["pin"] * 3
    assert rows["map_path"].isna().all()
    alone = [inferencer.predict(path, category="pin").pred_score.item() for path in paths]
    assert rows["pred_score"].tolist() == pytest.approx(alone, abs=1e-5)


def call(*arguments: object) -> None:
    """Run the script in this process; for what stops before Ray is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command(*arguments)[1:])
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_results_of_another_model_are_refused(judged: Judged, folder: Path, model: Path) -> None:
    other = folder / "other.xml"
    other.write_bytes(model.read_bytes())
    other.with_suffix(".bin").write_bytes(model.with_suffix(".bin").read_bytes()[:-1] + b"\1")
    with pytest.raises(SystemExit, match=r"out contains results of another model, .*model\.xml; choose another --out"):
        call(other, "images", "--out", "out")
    assert len(pd.read_parquet(judged.out / "predictions")) == READABLE + UNREADABLE


def test_a_pattern_takes_what_it_matches_and_nothing_is_judged_again(
    judged: Judged, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(model, "images/*/test/*/*.png", "--out", judged.out)
    assert "38 images, 38 of them finished in earlier runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images", "--out", "images/out"), "images/out lies inside images"),
        (("images/*.gif", "--out", "elsewhere"), "no images in images/.*gif"),
        (("images", "--out", "elsewhere", "--category", "cup"), "not know the category 'cup'; choose one of nut, pin"),
    ],
)
def test_a_call_that_cannot_work_stops_in_a_sentence(
    arguments: tuple[str, ...], message: str, folder: Path, model: Path, images: Path
) -> None:
    with pytest.raises(SystemExit, match=message):
        call(model, *arguments)
    assert not (folder / arguments[2]).exists()


def test_an_interrupted_call_says_how_to_go_on(model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ray.init", interrupt)
    with pytest.raises((SystemExit, KeyboardInterrupt), match="Stopped; run the same command again to resume"):
        call(model, images, "--out", "interrupted")
