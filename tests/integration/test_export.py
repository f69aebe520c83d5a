# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Exported models compute what the model computes, in anomalib's own inferencers, on images of any size."""

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from PIL import Image

from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.deploy.export import CATEGORIES_METADATA, SIZE_METADATA
from anomalib_grad.lightning_model import Grad
from exports import EXACT, assert_same, infer, knows_two_categories, one_trace, picture, to_both

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trusting")]

NATIVE = Path(__file__).parents[3] / "shared/native_size"
SIZES = [(256, 256), (64, 64), (50, 300), (900, 700), (1531, 2000)]


@pytest.fixture(scope="module")
def model() -> Grad:
    return knows_two_categories()


@contextlib.contextmanager
def logging_to(stream: io.StringIO) -> Iterator[None]:
    """Log as much as anomalib's command line does."""
    handler, level = logging.StreamHandler(stream), logging.root.level
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    yield
    logging.root.setLevel(level)
    logging.root.removeHandler(handler)


@pytest.fixture(scope="module")
def exports(model: Grad, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three kinds of export, and what they printed."""
    root, printed = tmp_path_factory.mktemp("exports"), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), logging_to(printed):
        files = {"torch": model.to_torch(root), **to_both(model, root)}
    (root / "printed.txt").write_text(printed.getvalue())
    return {"root": root, **files}


def test_exports_are_whole_quiet_and_no_larger_than_the_weights(model: Grad, exports: dict[str, Path]):
    root = exports["root"]
    files = sorted(str(path.relative_to(root / "weights")) for path in (root / "weights").rglob("*") if path.is_file())
    assert files == ["onnx/model.onnx", "openvino/model.bin", "openvino/model.xml", "torch/model.pt"]
    assert not [path for path in (root / "weights").rglob("*") if path.name.startswith(".")]
    printed = (root / "printed.txt").read_text()
    assert "[torch.onnx]" not in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) < 20

    weights = 4 * sum(parameter.numel() for parameter in model.model.parameters())
    for path in (exports["onnx"], exports["openvino"].with_suffix(".bin"), exports["torch"]):
        assert 0.95 * weights < path.stat().st_size < 1.15 * weights, path  # batch norms are folded, no grid is copied


def test_onnx_keeps_names_but_no_training_and_no_local_paths(exports: dict[str, Path]):
    graph = onnx.load(exports["onnx"])
    onnx.checker.check_model(graph)
    assert [output.name for output in graph.graph.output] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    assert graph.opset_import[0].version == 18
    operations = {node.op_type for node in graph.graph.node}
    assert not operations & {"Dropout", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    assert json.loads({entry.key: entry.value for entry in graph.metadata_props}["anomalib_grad_categories"]) == [
        "bright",
        "dark",
    ]
    assert str(Path(__file__).parents[2]).encode() not in exports["onnx"].read_bytes()


@pytest.mark.parametrize("kind", ["onnx", "openvino", "torch"])
def test_anomalibs_inferencers_agree_on_images_of_any_size(
    kind: str, model: Grad, exports: dict[str, Path], tmp_path: Path
):
    if kind != "torch":
        inferencer = OpenVINOInferencer(exports[kind], device="CPU", config=EXACT)
    else:
        inferencer = TorchInferencer(exports[kind], device="cpu")
    scores = []
    for index, (height, width) in enumerate(SIZES):
        file = tmp_path / f"{index}.png"
        Image.fromarray(picture(height, width, seed=index)).save(file)
        with torch.no_grad():
            predicted = model(read_image(file, as_tensor=True)[None])
            assert_same(inferencer.predict(file), predicted)
        scores.append(predicted.pred_score.item())
        assert 0 < scores[-1] < 1
    assert len(set(scores)) == len(SIZES)


def test_torch_predictions_are_plain_values_and_the_exported_model_still_trains(exports: dict[str, Path]):
    inferencer = TorchInferencer(exports["torch"], device="cpu")
    prediction = inferencer.predict(picture(64, 64))
    for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask"):
        assert getattr(prediction, name).numpy().shape[0] == 1, name

    features, refined = inferencer.model.model.train()(torch.rand(2, 3, 64, 64))
    torch.nn.functional.mse_loss(refined, features).backward()
    assert all(parameter.grad is not None for parameter in inferencer.model.model.head.parameters())


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_batch_is_dynamic(batch: int, model: Grad, exports: dict[str, Path]):
    images = np.stack([picture(80, 96, seed) for seed in range(batch)]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    with torch.no_grad():
        assert_same(infer(exports["openvino"], images), model(torch.from_numpy(images)))


def test_engine_predicts_the_same_from_the_same_files(model: Grad, exports: dict[str, Path], tmp_path: Path):
    for index, size in enumerate(SIZES[:4]):
        Image.fromarray(picture(*size, seed=index)).save(tmp_path / f"{index}.png")
    dataset = PredictDataset(tmp_path)
    engine = Engine(
        default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False, enable_progress_bar=False
    )
    loader = torch.utils.data.DataLoader(dataset, collate_fn=dataset.collate_fn)
    predictions = engine.predict(model, dataloaders=loader)
    assert len(predictions) == len(SIZES[:4])
    for batch in predictions:
        assert_same(infer(exports["openvino"], Path(batch.image_path[0])), batch)


@pytest.mark.skipif(not NATIVE.is_dir(), reason="shared/native_size with original photos is not beside the project")
def test_exports_agree_on_original_photos(model: Grad, exports: dict[str, Path]):
    inferencer = OpenVINOInferencer(exports["openvino"], device="CPU", config=EXACT)
    files = [*sorted(NATIVE.glob("bottle/test/*/*.png"))[:3], *sorted(NATIVE.glob("*.jpg"))[:1]]
    assert len(files) == 4
    for file in files:
        with torch.no_grad():
            assert_same(inferencer.predict(file), model(read_image(file, as_tensor=True)[None]))


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_exported_models_recognise_the_category_or_are_told(kind: str, model: Grad, exports: dict[str, Path]):
    inferencer = CategoryOpenVINOInferencer(exports[kind], device="CPU", config=EXACT)
    assert inferencer.categories == ["bright", "dark"]
    dark = torch.as_tensor(picture(64, 64, seed=1)).permute(2, 0, 1)[None] / 255
    images = torch.cat([dark, 0.5 + dark / 2, torch.zeros_like(dark)])  # black is like nothing in training
    with torch.no_grad():
        predicted = model(images)
        exported = inferencer.predict(images)
        assert predicted.explanation == exported.explanation == ["dark", "bright", "unknown"]
        assert_same(exported, predicted)
        for category in inferencer.categories:
            model.post_processor.category = category
            predicted = model(images)
            model.post_processor.category = None
            exported = inferencer.predict(images, category=category)
            assert exported.explanation == [category] * 3
            assert_same(exported, predicted)
    assert inferencer.predict(images).explanation == ["dark", "bright", "unknown"]  # being told is not remembered
    with pytest.raises(ValueError, match=r"not know the category 'cup'; choose one of bright, dark"):
        inferencer.predict(images, category="cup")


def test_a_model_that_was_told_its_category_exports_that(model: Grad, tmp_path: Path):
    images = torch.stack([torch.as_tensor(picture(64, 64, seed)).permute(2, 0, 1) / 255 for seed in range(3)])
    recognised = model(images).pred_score
    model.post_processor.category = "bright"
    try:
        told = model(images)
        files = to_both(model, tmp_path)
    finally:
        model.post_processor.category = None
    assert not torch.equal(told.pred_score, recognised)
    for path in files.values():
        for kind in (OpenVINOInferencer, CategoryOpenVINOInferencer):
            inferencer = kind(path, device="CPU", config=EXACT)
            for batch in (images, images[:1]):
                found = inferencer.predict(batch.permute(0, 2, 3, 1).numpy())
                np.testing.assert_allclose(found.pred_score.ravel(), told.pred_score[: len(batch)], atol=1e-3)
        assert found.explanation == ["bright"]
        other = inferencer.predict(images.numpy(), category="dark")
        assert not np.allclose(other.pred_score.ravel(), told.pred_score, atol=1e-3)


def test_bin_and_bytes_are_read_like_the_xml(exports: dict[str, Path]):
    xml, weights = exports["openvino"], exports["openvino"].with_suffix(".bin")
    image = picture(64, 64)
    scores = [
        CategoryOpenVINOInferencer(path, device="CPU").predict(image).pred_score.item()
        for path in (xml, weights, (xml.read_bytes(), weights.read_bytes()))
    ]
    assert scores[0] == scores[1] == scores[2]
    with pytest.raises(ValueError, match=r"\.xml, \.bin or \.onnx"):
        CategoryOpenVINOInferencer("model.pt")


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_missing_or_damaged_file_of_an_exported_model_is_named(exports: dict[str, Path], tmp_path: Path, suffix: str):
    for source in (exports["openvino"], exports["openvino"].with_suffix(".bin")):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    model = tmp_path / exports["openvino"].name
    part = model.with_suffix(suffix)
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=rf"{part}.* is damaged, or was changed after the export; export or copy it again\.$"
    ):
        CategoryOpenVINOInferencer(model, device="CPU")
    part.unlink()
    with pytest.raises(FileNotFoundError, match=f"no exported model at {model}: {part} is missing"):
        CategoryOpenVINOInferencer(model, device="CPU")


@pytest.mark.parametrize(("export", "suffix"), [("openvino", ".bin"), ("openvino", ".xml"), ("onnx", ".onnx")])
def test_a_changed_bit_in_an_exported_model_is_noticed(
    exports: dict[str, Path], tmp_path: Path, export: str, suffix: str
):
    model = tmp_path / exports[export].name
    for source in {exports[export], exports[export].with_suffix(suffix)}:
        (tmp_path / source.name).write_bytes(source.read_bytes())
    if export == "openvino":
        model.with_suffix(".bin").write_bytes(exports[export].with_suffix(".bin").read_bytes())
    changed = bytearray(model.with_suffix(suffix).read_bytes())
    changed[len(changed) // 2] ^= 0x01
    model.with_suffix(suffix).write_bytes(changed)
    with pytest.raises(ValueError, match=r"is damaged, or was changed after the export; export or copy it again\.$"):
        CategoryOpenVINOInferencer(model, device="CPU")
    if export == "openvino":
        with pytest.raises(ValueError, match="the model is damaged"):
            CategoryOpenVINOInferencer((model.read_bytes(), model.with_suffix(".bin").read_bytes()), device="CPU")


def test_an_export_fixed_to_the_models_own_size_takes_frames_of_any_and_its_weights_beside_it_belong_to_it(
    model: Grad, tmp_path: Path
):
    with one_trace():
        path = model.to_onnx(tmp_path, input_size=(64, 64), external_data=True)
        weights = path.with_name("model.onnx.data")
        inferencer = CategoryOpenVINOInferencer(path, device="CPU", config=EXACT)
        for height, width in SIZES[:3]:
            image = picture(height, width).astype(np.float32)  # uint8 would be resized in 8 bits
            with torch.no_grad():
                predicted = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
            exported = inferencer.predict(image)
            assert_same(exported, predicted)
        changed = bytearray(weights.read_bytes())
        changed[len(changed) // 2] ^= 0x01
        weights.write_bytes(changed)
        with pytest.raises(ValueError, match=f"{weights} is damaged, or was changed after the export"):
            CategoryOpenVINOInferencer(path, device="CPU")
        weights.unlink()
        with pytest.raises(FileNotFoundError, match=f"{weights} is missing"):
            CategoryOpenVINOInferencer(path, device="CPU")
        weights.write_bytes(b"of an older export")
        model.to_onnx(tmp_path, input_size=(64, 64))
    again = CategoryOpenVINOInferencer(path, device="CPU", config=EXACT).predict(image)
    assert again.pred_score == exported.pred_score


def test_damaged_metadata_are_refused(exports: dict[str, Path], tmp_path: Path):
    model = onnx.load(exports["onnx"])
    for names in ("[1", '"nut"', "[1]"):
        onnx.helper.set_model_props(model, {CATEGORIES_METADATA: names})
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(ValueError, match="the exported model's category names are damaged"):
            CategoryOpenVINOInferencer(tmp_path / "model.onnx", device="CPU")
    for size in ("[64", "64", "[64, -1]", '["64", 64]'):
        onnx.helper.set_model_props(model, {SIZE_METADATA: size})
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(ValueError, match="the exported model's height and width are damaged"):
            CategoryOpenVINOInferencer(tmp_path / "model.onnx", device="CPU")
    onnx.helper.set_model_props(model, {SIZE_METADATA: "[64, 64]"})
    onnx.helper.set_model_props(model, {CATEGORIES_METADATA: '["nut"]'})
    onnx.save(model, tmp_path / "model.onnx")
    inferencer = CategoryOpenVINOInferencer(tmp_path / "model.onnx", device="CPU")
    with pytest.raises(ValueError, match="more categories than category names"):
        inferencer.predict(np.zeros((64, 64, 3), dtype=np.uint8))


def test_what_is_no_image_is_refused_by_an_exported_model(exports: dict[str, Path]):
    with pytest.raises(TypeError, match="Pass the path of an image, a Pillow image, an array or a tensor, not None"):
        CategoryOpenVINOInferencer(exports["openvino"], device="CPU").predict(None)


def test_the_openvino_graph_names_what_may_be_quantised(exports: dict[str, Path]):
    operations = ov.Core().read_model(exports["openvino"]).get_ops()
    convolutions = [op.get_friendly_name() for op in operations if "Convolution" in op.get_type_name()]
    backbone = [name for name in convolutions if name.startswith("model.backbone/")]
    head = [name for name in convolutions if name.startswith("model.head.")]
    assert len(backbone) > 10
    assert len(head) > 3
    assert sorted(backbone + head) == sorted(convolutions)


def test_the_inferencer_writes_nothing_to_the_current_folder_unless_told_to(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache there would be trusted whoever wrote it, and could not be made on a read-only system."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openvino_cache").write_text("a file where anomalib's inferencer makes a folder")
    CategoryOpenVINOInferencer(exports["openvino"]).predict(picture(64, 64))
    assert [path.name for path in tmp_path.iterdir()] == ["openvino_cache"]
    CategoryOpenVINOInferencer(exports["openvino"], config={"CACHE_DIR": "cache"}).predict(picture(64, 64))
    assert list((tmp_path / "cache").iterdir())
