# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Files of every kind in training, prediction and exported models: scored alike everywhere, or refused by name."""

import logging
import os
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import Folder, MVTecAD
from anomalib.engine import Engine
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_grad.data import MultiCategory, PredictImages
from anomalib_grad.data.read_or_refuse import DEFAULT_FORMAT, UnreadableImageError, read_image
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.lightning_model import Grad
from anomalib_grad.thresholds import PerCategoryPostProcessor
from bad_images import REFUSED, Variant, encoded, png, scene, tiff
from helpers import TINY, as_if_trained, tiny, write_category

Files = dict[str, tuple[Path, Variant]]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:PIL")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_category(tmp_path / "data/nut")
    return tmp_path / "data"


def engine(folder: Path, max_epochs: int = 1, **options: Any) -> Engine:
    """An engine that does little else than what is tested."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=max_epochs, **quiet, **options)


def readable(files: Files) -> dict[str, Path]:
    return {name: path for name, (path, variant) in files.items() if isinstance(variant.expected, np.ndarray)}


def refused(files: Files) -> dict[str, Path]:
    return {name: path for name, (path, variant) in files.items() if variant.expected is REFUSED}


def scores(predictions: list) -> dict[str, float]:
    return {
        Path(path).name: float(score)
        for batch in predictions
        for path, score in zip(batch.image_path, batch.pred_score, strict=True)
    }


def deep_image(path: Path) -> None:
    values = np.linspace(0, 65535, 72 * 72).reshape(72, 72).astype(np.uint16)
    path.write_bytes(encoded(Image.fromarray(values), format="PNG"))


def bomb(path: Path) -> None:
    path.write_bytes(png(np.zeros((4, 4, 3)), width=20_000, height=20_000))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


# ------------------------------------------------------------------ what can be read


def test_training_and_prediction_take_every_file_and_neighbours_do_not_matter(
    files: Files, root: Path, tmp_path: Path
) -> None:
    names = readable(files)
    for name, path in names.items():
        for folder in ("train/good", "test/good"):
            (root / "nut" / folder / f"of_{name}").symlink_to(path)
    raw = PerCategoryPostProcessor(enable_normalization=False)  # whose scores nothing clips
    model = Grad(**tiny(max_epochs=1), post_processor=raw, visualizer=False)
    data = MultiCategory(root=root, train_batch_size=16, eval_batch_size=16, num_workers=0)
    engine(tmp_path, max_epochs=2, limit_val_batches=0).fit(model, datamodule=data)  # the second on cached features
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())

    mixed = scores(engine(tmp_path).predict(model, datamodule=data))
    data.eval_batch_size = 1
    alone = scores(engine(tmp_path).predict(model, datamodule=data))
    assert {f"of_{name}" for name in names} <= mixed.keys()
    assert np.isfinite(list(mixed.values())).all()
    assert mixed == pytest.approx(alone, rel=1e-4)


def test_an_exported_model_scores_every_file_as_the_model_in_process_does(files: Files, deployed) -> None:
    names = readable(files)
    size = (
        deployed.inferencer.image_size
    )  # files are resized in 8 bits, as for training and prediction through MultiCategory
    outputs = {name: deployed.model(read_image(path, size)[None]) for name, path in names.items()}
    expected = {name: output.pred_score.item() for name, output in outputs.items()}
    exported = {name: deployed.inferencer.predict(path).pred_score.item() for name, path in names.items()}
    assert np.isfinite(list(expected.values())).all()
    assert exported == pytest.approx(expected, rel=1e-3)


def test_batch_inference_scores_each_file_as_if_it_were_alone_and_says_what_is_wrong_with_the_others(
    files: Files, deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    pyarrow = pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "batch_inference.py"))
    place = script["Place"].parse
    (tmp_path / "out/predictions").mkdir(parents=True)
    settings = script["Settings"](
        model=script["read_model"](deployed.file),
        images=place(str(next(iter(files.values()))[0].parent)),
        out=place(str(tmp_path / "out")),
        category=None,
        maps=False,
        batch_size=8,
        threads=1,
        files=DEFAULT_FORMAT,
    )
    os.mkfifo(pipe := tmp_path / "pipe.png")
    script["Judge"](settings)(pyarrow.table({"path": [*(str(path) for path, _ in files.values()), str(pipe)]}))

    rows = pd.read_parquet(tmp_path / "out/predictions").set_index("path")
    assert len(rows) == len(files) + 1
    assert "is a pipe or a device" in rows.loc[str(pipe), "error"]
    inferencer = CategoryOpenVINOInferencer(deployed.file, device="CPU")  # at the accuracy of the script's own
    for name, path in readable(files).items():
        alone = inferencer.predict(path).pred_score.item()
        assert rows.loc[str(path), "pred_score"] == pytest.approx(alone, rel=1e-4), name
    errors = rows.loc[[str(path) for path in refused(files).values()], "error"]
    assert errors.str.contains(r"^\w+: .").all()
    assert rows["error"].isna().eq(rows["pred_score"].notna()).all()


# ------------------------------------------------------------------ what cannot


def test_multi_category_names_every_file_that_cannot_be_read(files: Files, root: Path) -> None:
    names = {name: path for name, path in refused(files).items() if path.suffix in IMG_EXTENSIONS}
    for name, path in names.items():
        (root / "nut/train/good" / f"of_{name}").symlink_to(path)
    data = MultiCategory(root=root, num_workers=0)
    data.setup()
    found = set()
    for index, path in enumerate(data.train_data.samples["image_path"]):
        if Path(path).is_symlink():
            with pytest.raises(UnreadableImageError, match=re.escape(f"could not read image '{path}'")):
                data.train_data[index]
            found.add(Path(path).name.removeprefix("of_"))
    assert found == set(names)


def test_the_inferencer_names_every_file_that_cannot_be_read(files: Files, deployed) -> None:
    for path in refused(files).values():
        with pytest.raises(UnreadableImageError, match=re.escape(str(path))):
            deployed.inferencer.predict(path)


@pytest.mark.parametrize("damage", [bomb, deep_image])
def test_a_fit_on_anomalibs_dataset_names_what_it_cannot_read(
    root: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    image = root / "nut/train/good/002.png"
    damage(image)
    data = Folder("nut", root=root / "nut", normal_dir="train/good", abnormal_dir="test/spot", num_workers=0)
    with pytest.raises(Exception, match=re.escape(str(image))) as error:
        engine(tmp_path).fit(Grad(**TINY), datamodule=data)
    assert "\n" not in str(error.value)


def test_a_test_on_anomalibs_dataset_names_the_mask_that_it_would_cut(root: Path, tmp_path: Path) -> None:
    mask = root / "nut/ground_truth/spot/000_mask.png"
    mask.write_bytes(tiff(np.full((72, 72), 0.5, dtype=np.float32)))
    data = MVTecAD(root=root, category="nut", num_workers=0)
    with pytest.raises(UnreadableImageError, match=f"or fractions, in {re.escape(str(mask))}: train and test with"):
        engine(tmp_path).test(as_if_trained(Grad(**TINY)), datamodule=data)


def test_prediction_refuses_16_bits_that_anomalib_would_cut_and_its_advice_works(tmp_path: Path, deployed) -> None:
    (tmp_path / "images").mkdir()
    deep_image(image := tmp_path / "images/deep.png")
    with pytest.raises(UnreadableImageError, match=rf"above 255.* in {image}: .*PredictImages\(path\)"):
        engine(tmp_path).predict(deployed.model, data_path=image.parent)
    predicted = scores(engine(tmp_path).predict(deployed.model, dataset=PredictImages(image.parent)))
    assert predicted["deep.png"] == pytest.approx(deployed.inferencer.predict(image).pred_score.item(), rel=1e-3)


def test_prediction_names_a_directory_that_looks_like_an_image(root: Path, tmp_path: Path, deployed) -> None:
    directory(image := root / "nut/test/good/001.png")
    with pytest.raises(
        OSError, match=f"could not read image '{image}': Is a directory; give an image in it, or rename the folder"
    ):
        engine(tmp_path).predict(deployed.model, data_path=image.parent)


def test_images_of_several_sizes_are_not_resized_for_one_another(tmp_path: Path) -> None:
    for number, width in enumerate((30, 31)):
        Image.fromarray(scene(width=width)).save(tmp_path / f"{number}.png")
    images = PredictImages(tmp_path)
    with pytest.raises(ValueError, match="2 images of 2 sizes cannot share a batch"):
        next(iter(DataLoader(images, batch_size=2, collate_fn=images.collate_fn)))


def test_a_pipe_is_refused_by_name_and_not_waited_for(
    root: Path, tmp_path: Path, deployed, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(pipe := root / "nut/train/good/pipe.png")
    named = rf"'{pipe}' is a pipe or a device, not a file; remove it"
    for data in (MultiCategory(root=root, num_workers=0), MVTecAD(root=root, category="nut", num_workers=0)):
        with pytest.raises((OSError, ValueError), match=named):
            engine(tmp_path).fit(Grad(**TINY), datamodule=data)
    with pytest.raises(UnreadableImageError, match=named):
        deployed.inferencer.predict(pipe)
    caplog.set_level(logging.WARNING)
    MultiCategory(root=root, num_workers=0, skip_unreadable=True).setup()
    assert re.search(named, caplog.text)


# ------------------------------------------------------------------ leaving out


def test_unreadable_files_are_left_out_and_listed(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_category(root / "pin")
    whole = MultiCategory(root=root, num_workers=0)
    whole.setup()
    damaged = [
        root / "nut/train/good/001.png",
        root / "pin/train/good/003.png",
        root / "pin/test/good/000.png",
        root / "nut/ground_truth/spot/001_mask.png",
    ]
    directory(damaged[0])
    bomb(damaged[1])
    for path in damaged[2:]:
        path.write_text("nothing")

    caplog.set_level(logging.WARNING)
    data = MultiCategory(root=root, train_batch_size=2, eval_batch_size=2, num_workers=0, skip_unreadable=True)
    before = set(tmp_path.rglob("*"))
    data.setup()
    listing = next(message for message in caplog.messages if message.startswith("left out"))
    assert listing.startswith("left out 4 of 20 files:")
    assert len(listing.splitlines()) == 1 + len(damaged)
    assert all(str(path) in listing for path in damaged)
    assert set(tmp_path.rglob("*")) == before

    without = {*map(str, damaged), str(root / "nut/test/spot/001.png")}
    for subset in ("train_data", "val_data", "test_data"):
        kept = list(getattr(data, subset).samples["image_path"])
        assert kept == [path for path in getattr(whole, subset).samples["image_path"] if path not in without]
        assert len([getattr(data, subset)[row] for row in range(len(kept))]) == len(kept)  # and all can be read


def test_without_the_option_the_first_unreadable_file_stops_by_name(root: Path, tmp_path: Path) -> None:
    bomb(image := root / "nut/train/good/001.png")
    data = MultiCategory(root=root, num_workers=0)
    with pytest.raises(ValueError, match=re.escape(str(image))):
        engine(tmp_path).fit(Grad(**TINY), datamodule=data)


def test_a_file_is_decoded_again_only_when_it_has_changed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def left_out() -> bool:
        caplog.clear()
        MultiCategory(root=root, num_workers=0, skip_unreadable=True).setup()
        return any("left out" in message for message in caplog.messages)

    caplog.set_level(logging.WARNING)
    image = root / "nut/train/good/000.png"
    sound = image.read_bytes()
    assert not left_out()
    image.write_text("nothing")
    assert left_out()
    image.write_bytes(sound)
    assert not left_out()
    assert not left_out()


def test_a_category_of_which_nothing_is_left_stops_by_name(root: Path) -> None:
    for path in (root / "nut/train/good").iterdir():
        path.write_text("nothing")
    with pytest.raises(ValueError, match="category 'nut' has no train image"):
        MultiCategory(root=root, num_workers=0, skip_unreadable=True).setup()
