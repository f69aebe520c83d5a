# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The distillation script: reproducible, resumable, and its result is what the package loads."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
if not (ROOT / "tools").is_dir():
    pytest.skip("the training scripts are in the repository, not in the distributed package", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from anomalib_grad.backbone.tiny import create_grad_tiny  # noqa: E402
from anomalib_grad.data.textures.files import TexturesSpec, ensure_written  # noqa: E402
from tools.distil_grad_tiny import __main__ as command  # noqa: E402
from tools.distil_grad_tiny import check  # noqa: E402
from tools.distil_grad_tiny.batches import CropSource  # noqa: E402
from tools.distil_grad_tiny.distil import Distillation, Recipe  # noqa: E402
from tools.distil_grad_tiny.pictures import LICENCES, load_pictures  # noqa: E402
from tools.distil_grad_tiny.procedural import render  # noqa: E402

pytestmark = pytest.mark.slow

SMALL = ((64, 4), (96, 2))


@pytest.fixture(scope="module", autouse=True)
def few_statistics() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.distil_grad_tiny.distil.STATISTICS_BATCHES", 2)
        yield patch


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained teacher of the right architecture: what is tested here is the script, not the result."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "mobilenetv2_100.safetensors"
    save_file(timm.create_model("mobilenetv2_100", num_classes=0).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def make(teacher_file: Path) -> Callable[..., Distillation]:
    def build(steps: int = 6) -> Distillation:
        recipe = Recipe(steps=steps, cooldown=2, learning_rate=1e-3, bfloat16=False)
        return Distillation(teacher_file, recipe, CropSource(seed=0, pool=2, sizes=SMALL))

    return build


def ignore(step: int, losses: list[float]) -> None:
    del step, losses


def test_every_picture_has_a_licence_and_can_be_read_offline() -> None:
    pictures = load_pictures()
    assert len(pictures) == len(LICENCES) == 17
    assert all(picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype.name == "uint8" for picture in pictures)
    assert all("CC0" in text or "public domain" in text or "no known copyright" in text for text in LICENCES.values())


def test_batches_depend_on_seed_and_step_alone() -> None:
    source, late = CropSource(0, pool=3, sizes=SMALL), CropSource(0, pool=3, sizes=SMALL)
    batches = [source.batch(step) for step in range(10)]
    assert torch.equal(late.batch(9), batches[9])
    assert torch.equal(late.batch(2), batches[2])
    assert not torch.equal(
        CropSource(1, pool=3, sizes=((64, 4),)).batch(0)[0], CropSource(0, pool=3, sizes=((64, 4),)).batch(0)[0]
    )


def test_pictures_of_grain_come_with_their_step() -> None:
    many = {"pool": 8, "sizes": ((32, 32),)}
    always, late = CropSource(1, **many), CropSource(1, **many, grain_from=3)
    differing = [step for step in range(5) if not torch.equal(always.batch(step), late.batch(step))]
    assert differing
    assert max(differing) < 3
    resumed = CropSource(1, **many, grain_from=3)
    assert torch.equal(resumed.batch(4), late.batch(4))
    assert torch.equal(resumed.batch(2), late.batch(2))


def test_crops_are_varied_images_in_the_unit_range() -> None:
    images = CropSource(0, pool=3, sizes=((64, 32),)).batch(0)
    assert images.shape == (32, 3, 64, 64)
    assert 0 <= images.min() < 0.2
    assert 0.8 < images.max() <= 1
    assert images.flatten(1).std(dim=1).median() > 0.03
    assert len({tuple(image[:, ::16, ::16].flatten().tolist()) for image in images}) == 32


def test_procedural_pictures_are_seeded() -> None:
    first, again, other = (render(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    recipe = Recipe(steps=100, cooldown=40, learning_rate=1.0)
    rates = [recipe.rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:61] == [1.0] * 51
    assert rates[70] == pytest.approx(0.5)
    assert rates[100] == 0
    longer = Recipe(steps=200, cooldown=40, learning_rate=1.0)
    assert longer.rate_at(60) == 1.0  # the end can be moved before the cooldown has begun


def test_the_student_learns_to_imitate_the_teacher(
    make: Callable[..., Distillation], monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = make(40)
    batch = distillation.source.batch(0)
    monkeypatch.setattr(distillation.source, "batch", lambda _: batch)
    seen: list[list[float]] = []
    distillation.run(40, lambda _, losses: seen.append(losses))
    assert all(last < 0.7 * first for first, last in zip(seen[0], seen[-1], strict=True))


def test_a_resumed_run_equals_an_uninterrupted_one(make: Callable[..., Distillation]) -> None:
    whole, before, after = make(), make(), make()
    whole.run(6, ignore)
    before.run(3, ignore)
    after.load_state_dict(before.state_dict())
    after.run(6, ignore)
    expected, resumed = whole.state_dict(), after.state_dict()
    assert resumed["step"] == 6
    for part in ("student", "average", "teacher"):
        for name, value in expected[part].items():
            torch.testing.assert_close(resumed[part][name], value, msg=lambda text, n=name: f"{n}: {text}")


def test_the_teacher_is_normalised_and_frozen(make: Callable[..., Distillation]) -> None:
    distillation = make()
    distillation.run(1, ignore)
    teacher = distillation.teacher
    images = [distillation.source.batch(step) for step in range(2)]
    maps = [teacher(teacher.normalise(batch)) for batch in images]
    for stage in zip(*maps, strict=True):
        values = torch.cat([features.transpose(0, 1).flatten(1) for features in stage], dim=1)
        torch.testing.assert_close(values.mean(dim=1), torch.zeros(len(values)), atol=1e-3, rtol=0)
        torch.testing.assert_close(values.std(dim=1), torch.ones(len(values)), atol=1e-3, rtol=0)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_command_stops_resumes_and_exports(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.distil_grad_tiny.batches.SIZES", SMALL)
    monkeypatch.setattr(CropSource.__init__, "__defaults__", (2, SMALL))
    common = ["--teacher", str(teacher_file), "--out", str(tmp_path), "--steps", "4", "--cooldown", "2"]
    common += ["--pool", "2", "--float32", "--print-every", "1"]
    command.main([*common, "--stop-at", "2"])
    assert "step 2/2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="continue from it with --resume"):
        command.main(common)
    command.main([*common, "--resume"])
    printed = capsys.readouterr().out
    assert "step 3/4" in printed
    assert "min left" in printed

    exported = load_file(tmp_path / "grad_tiny.safetensors")
    backbone = create_grad_tiny(pretrained=False)
    missing = backbone.load_state_dict(exported, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for name, value in exported.items():
        torch.testing.assert_close(value, state["average"][f"student.{name}"].half())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "nowhere.safetensors", "--out", "x"], "no teacher weights at nowhere.safetensors"),
        (["--teacher", __file__, "--out", "nowhere", "--resume"], "nothing to resume"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        command.main(arguments)


def test_the_readme_lists_every_picture_with_its_licence() -> None:
    rows = (ROOT / "tools" / "distil_grad_tiny" / "README.md").read_text().splitlines()
    table = dict(row.strip("| ").split(" | ") for row in rows if row.startswith("| ") and row.count("|") == 3)
    assert LICENCES.items() <= table.items()


def test_the_check_ranks_defects_above_normal_images(
    teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = TexturesSpec(image_size=64, n_train=8, n_test_good=4, n_defect=2)
    ensure_written(tmp_path / "textures", spec)
    folder = tmp_path / "one" / "brick"
    shutil.copytree(tmp_path / "textures" / "brick", folder)
    check.main(["--data", str(tmp_path / "one"), "--teacher", str(teacher_file)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 2 * 2  # backbones, checks, one category and the mean
    found = {(line[:16].strip(), line[17:35].strip(), line[36:48].strip()): line[48:].split() for line in lines}
    image, pixel = (float(value) for value in found["grad_tiny", "nearest neighbour", "brick"])
    assert image > 85
    assert pixel > 80
    assert found["grad_tiny", "nearest neighbour", "mean"] == found["grad_tiny", "nearest neighbour", "brick"]
