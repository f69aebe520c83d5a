# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""examples/compare: encoders from files, tokens computed once, rows of models that run and of one that cannot."""

import csv
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from anomalib.engine import Engine
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from anomalib_grad import MultiCategory
from helpers import write_category

FOLDER = Path(__file__).parents[2] / "examples/compare"


@pytest.fixture(scope="module")
def modules() -> Any:
    """The example's modules, forgotten afterwards: other examples have files of the same names."""
    names = [file.stem for file in FOLDER.glob("*.py")]
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules and name != "__main__"}
    sys.path.insert(0, str(FOLDER))
    spec: Any = importlib.util.spec_from_file_location("compare_main", FOLDER / "__main__.py")
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    found = {name: importlib.import_module(name) for name in names if name != "__main__"}
    sys.path.remove(str(FOLDER))
    for name in found:
        del sys.modules[name]
    sys.modules.update(kept)
    return SimpleNamespace(main=main, **found)


def test_a_pretrained_encoder_is_read_from_its_file(modules: Any, tmp_path: Path) -> None:
    expected = timm.create_model("mobilenetv2_050", pretrained=False)
    save_file(expected.state_dict(), tmp_path / "file.safetensors")
    with modules.local_weights.local_weights({"mobilenetv2_050": tmp_path / "file.safetensors"}) as served:
        found = timm.create_model("mobilenetv2_050.lamb_in1k", pretrained=True)
    assert torch.equal(found.conv_stem.weight, expected.conv_stem.weight)
    assert served.files == {"mobilenetv2_050"}


def test_an_encoder_without_a_file_is_refused_and_named(modules: Any) -> None:
    with (
        modules.local_weights.local_weights({}),
        pytest.raises(OSError, match=r"--weights mobilenetv2_050=FILE, or --random-encoders"),
    ):
        timm.create_model("mobilenetv2_050", pretrained=True)


def test_a_file_of_another_encoder_is_refused_and_leaves_nothing_random(modules: Any, tmp_path: Path) -> None:
    save_file(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "file.safetensors")
    with (
        modules.local_weights.local_weights({"mobilenetv2_050": tmp_path / "file.safetensors"}),
        pytest.raises(RuntimeError, match=r"file.safetensors' .*give a safetensors or pth file .*'mobilenetv2_050'"),
    ):
        timm.create_model("mobilenetv2_050", pretrained=True, features_only=True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--models", "Stfpn"], "there is no 'Stfpn'; --help lists"),
        (["--models", "Stfpm", "--steps", "-1"], "'-1' is not a whole number of at least 1"),
        (["--models", "Stfpm", "--threads", "0"], "'0' is not a whole number of at least 1"),
        (["--models", "Stfpm", "--precision", "8"], "invalid choice: '8'"),
        (["--weights", "resnet18"], "'resnet18' is not TIMM_NAME=FILE"),
        (["--models", "Stfpm"], "error: there is no folder nowhere; give the folder"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(
    modules: Any, given: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "--root", "nowhere", *given])
    with pytest.raises(SystemExit) as stopped:
        modules.main.main()
    assert sentence in f"{capsys.readouterr().err} {stopped.value}"


@pytest.mark.parametrize("model", ["Grad", "Grad fast, MobileNetV2", "Stfpm"])
def test_no_model_gets_an_encoder_without_a_file(modules: Any, no_network: None, model: str) -> None:
    row = modules.contestants.row_of(model)
    with modules.local_weights.local_weights({}) as served, pytest.raises(OSError, match="or --random-encoders"):
        modules.contestants.build(row, 64, 1, 4, 10, served)


def test_a_network_is_built_for_the_size_of_the_images(modules: Any) -> None:
    with modules.local_weights.local_weights({}, random_encoders=True) as served:
        model = modules.contestants.build(modules.contestants.row_of("Ganomaly"), 64, 1, 4, 10, served)
    assert model.input_size == (64, 64)


def test_a_damaged_row_is_named(modules: Any, tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text('{"model": "Pa')
    with pytest.raises(ValueError, match=r"row.json is not a finished row: remove it"):
        modules.storing.load_or_compute(tmp_path / "row.json", dict)


def small_encoder() -> VisionTransformer:
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=3, num_heads=2, num_classes=0).eval()


def test_cached_tokens_are_the_encoders(modules: Any, tmp_path: Path) -> None:
    encoder, images = small_encoder(), torch.rand(2, 3, 32, 32)
    options: dict[str, Any] = {"indices": [0, 2], "norm": True, "intermediates_only": True}
    expected = encoder.forward_intermediates(images, **options)
    with modules.token_cache.cached_tokens(encoder, modules.token_cache.TokenCache(encoder, tmp_path)):
        for _ in range(2):  # computed, then read
            found = encoder.forward_intermediates(images, **options)
            for own, other in zip(found, expected, strict=True):
                torch.testing.assert_close(own, other, atol=5e-3, rtol=0)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert torch.equal(encoder.forward_intermediates(images, **options)[0], expected[0])


def test_tokens_of_another_encoder_are_not_taken(modules: Any, tmp_path: Path) -> None:
    other, cache = small_encoder(), modules.token_cache.TokenCache(small_encoder(), tmp_path)
    with modules.token_cache.cached_tokens(other, cache), pytest.raises(ValueError, match="without --memory"):
        other.forward_intermediates(torch.rand(1, 3, 32, 32), indices=[0], intermediates_only=True)


@pytest.mark.slow
def test_rates_of_dinomaly_follow_steps_and_warm_up_in_a_tenth_of_a_short_training(
    modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_category(tmp_path / "products" / "nut", side=56)
    row, rates = modules.contestants.ROWS["Dinomaly, DINOv2-S"], []
    with modules.local_weights.local_weights({}, random_encoders=True) as served:
        model = modules.contestants.build(row, 56, 20, 4, 10, served)
    step = model.training_step
    monkeypatch.setattr(
        model, "training_step", lambda *batch: rates.append(model.optimizers().param_groups[0]["lr"]) or step(*batch)
    )
    data = MultiCategory(root=tmp_path / "products", train_batch_size=2, num_workers=0)
    with modules.contestants.short_warm_up(row, 20):
        callbacks = modules.contestants.callbacks_of(row)
        engine = Engine(max_steps=4, limit_val_batches=0, logger=False, default_root_dir=tmp_path, callbacks=callbacks)
        engine.fit(model, datamodule=data)
    assert rates[0] == 0
    assert rates[1] == max(rates) == 2e-3  # two steps of twenty, which are one epoch
    assert rates[3] < rates[2] or rates[2] < rates[1]


@pytest.mark.slow
def test_models_that_run_and_one_that_cannot_have_a_row_each(modules: Any, tmp_path: Path, no_network: None) -> None:
    for name in ("bottle", "nut"):
        write_category(tmp_path / "products" / name, side=64)
    encoder = timm.create_model("mobilenetv2_100", pretrained=False)
    save_file(encoder.state_dict(), tmp_path / "file.safetensors")
    given = ["--root", f"{tmp_path / 'products'}", "--models", "PaDiM, MobileNetV2", "AnomalyDINO, DINOv2-S", "Cflow"]
    given += [
        "--weights",
        f"mobilenetv2_100={tmp_path / 'file.safetensors'}",
        "--random-encoders",
        "--side",
        "56",
        "--batch",
        "4",
        "--rounds",
        "1",
        "--threads",
        "1",
    ]
    args = modules.main.arguments([*given, "--out", str(tmp_path / "out")])
    rows = {row["model"]: row for row in modules.main.compare(args)}
    assert rows["Cflow"]["problem"] == "train: ValueError: Cflow defines no training length: give --steps"
    for name in ("PaDiM, MobileNetV2", "AnomalyDINO, DINOv2-S"):
        row = rows[name]
        assert "problem" not in row
        assert row["random_encoder"] == name.endswith("DINOv2-S")
        assert 0 <= row["bottle/image_AUROC"] <= 1
        assert min(row["train_cpu_s"], row["export_mb"], row["ms_1"], row["inference_peak_mb"]) > 0
    with (tmp_path / "out/table.csv").open() as file:
        table = {row["model"]: row for row in csv.DictReader(file)}
    padim = table["PaDiM, MobileNetV2"]
    assert float(padim["worst/image_AUROC"]) == min(float(padim[f"{name}/image_AUROC"]) for name in ("bottle", "nut"))
    assert "anomalib 2.7" in padim["versions"]
    assert "random encoder" in (tmp_path / "out/table.md").read_text()

    modified = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*_0.json")}
    args.threads = []
    modules.main.compare(args)  # the same command goes on where it stopped: nothing is trained again
    assert {file: file.stat().st_mtime_ns for file in modified} == modified
    assert len(modified) == 3
    encoder.conv_stem.weight.data += 1
    save_file(encoder.state_dict(), tmp_path / "file.safetensors")
    with pytest.raises(SystemExit, match=r"padim_mobilenetv2\S+ was computed with other weights of its encoder"):
        modules.main.compare(args)
    args.batch = 2
    with pytest.raises(SystemExit, match=r"padim_mobilenetv2\S+ was computed under other conditions.*'batch': '4'"):
        modules.main.compare(args)
