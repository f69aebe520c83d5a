# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Installed as users install it, GRAD is known to anomalib in a fresh process without any import of theirs.

A wheel is built and installed into a clean environment. That environment shares the installed dependencies of the one
that runs the tests, except this package itself, whose own hook would otherwise do the work.
"""

import json
import os
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from command_lines import COMMAND_LINES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HOOKED = "any(type(f).__name__ == 'RegistrationHook' for f in sys.meta_path)"
MODEL = {"backbone": "mobilenetv2_100", "layers": ["blocks.2", "blocks.4"], "pre_trained": False, "fusion": "small"}


class CleanEnvironment:
    """A virtual environment with the dependencies and without this package."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self.python = folder / "bin" / "python"
        self.site_packages = Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))")[0].strip())
        dependencies = folder / "dependencies"
        dependencies.mkdir()
        for item in Path(sysconfig.get_path("purelib")).iterdir():
            if "anomalib_grad" not in item.name and item.suffix != ".pth":
                (dependencies / item.name).symlink_to(item)
        (self.site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
        self.folder = folder

    def pip(self, *arguments: str) -> None:
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True)

    def run(self, code: str, *arguments: str, **variables: str) -> tuple[str, str]:
        """Run code in a fresh process outside the repository; return what it prints and its error output."""
        environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "ANOMALIB_GRAD_DISABLE"}}
        done = subprocess.run(
            [str(self.python), "-c", textwrap.dedent(code), *arguments],
            cwd=self.python.parent,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout, done.stderr

    def report(self, code: str, *arguments: str) -> dict:
        """Run code that prints a dictionary as JSON in its last line."""
        return json.loads(self.run(code, *arguments)[0].splitlines()[-1])

    def ours(self) -> list[str]:
        return sorted(str(p.relative_to(self.site_packages)) for p in self.site_packages.rglob("*anomalib_grad*"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return CleanEnvironment(tmp_path_factory.mktemp("empty") / "venv")


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel):
    environment = CleanEnvironment(tmp_path_factory.mktemp("installed") / "venv")
    environment.pip("install", "--no-deps", str(wheel))
    return environment


def test_start_up_loads_one_module_and_prints_nothing(installed):
    code = f"import sys; print(sorted(m for m in sys.modules)); print({HOOKED})"
    printed, warned = installed.run(code)
    without, _ = installed.run(code, ANOMALIB_GRAD_DISABLE="1")
    (hook,) = (installed.site_packages / name for name in installed.ours() if name.endswith(".pth"))
    line = hook.read_text()
    hook.write_text("")
    bare, _ = installed.run(code)
    hook.write_text(line)
    assert printed.splitlines()[1] == "True"
    assert without.splitlines()[1] == "False"
    loaded, before = (set(json.loads(text.splitlines()[0].replace("'", '"'))) for text in (printed, bare))
    assert loaded - before == {"_anomalib_grad_startup"}
    assert warned == ""


@pytest.mark.parametrize("source", ["raise SystemError", "def broken(:", "def install(): 1 / 0", None])
def test_a_broken_hook_does_not_disturb_start_up(installed, source):
    hook = installed.site_packages / "_anomalib_grad_startup.py"
    whole = hook.read_text()
    hook.unlink()
    if source is not None:
        hook.write_text(source)
    try:
        printed, warned = installed.run("print('started')")
    finally:
        hook.write_text(whole)
    assert printed == "started\n"
    assert warned == ""


def test_every_python_name_resolves_without_an_import(installed):
    found = installed.report(
        """
        import json, sys, warnings
        warnings.simplefilter("error", RuntimeWarning)
        from anomalib.visualization.image.functional import overlay_image  # which brings the data half way
        from anomalib.models import get_model, list_models
        from anomalib.data import get_datamodule
        import anomalib.data, anomalib.models
        from omegaconf import OmegaConf
        from jsonargparse import Namespace
        arguments = json.loads(sys.argv[1])
        specifications = [
            "Grad", "grad", "anomalib_grad.Grad",
            *({"class_path": path} for path in ("Grad", "anomalib.models.Grad", "anomalib_grad.Grad")),
            OmegaConf.create({"class_path": "anomalib_grad.lightning_model.Grad"}), Namespace(class_path="Grad"),
        ]
        models = [type(get_model(s, **arguments)).__qualname__ for s in specifications]
        models.append(type(get_model({"class_path": "Grad", "init_args": arguments})).__qualname__)
        import lightning.pytorch as lightning
        trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        print(json.dumps({
            "models": models,
            "listed": "grad" in list_models() and "Grad" in list_models(case="pascal"),
            "exported": "Grad" in anomalib.models.__all__ and "MultiCategory" in anomalib.data.__all__,
            "datamodule": anomalib.data.MultiCategory.__name__,
            "callbacks": [type(c).__name__ for c in trainer.callbacks],
            "hook": any(type(f).__name__ == "RegistrationHook" for f in sys.meta_path),
            "package": __import__("anomalib_grad").__file__,
        }))
        """,
        json.dumps(MODEL),
    )
    assert found["models"] == ["Grad"] * 9
    assert found["listed"]
    assert found["exported"]
    assert found["datamodule"] == "MultiCategory"
    assert found["callbacks"].count("PerCategoryEvaluator") == 1
    assert found["hook"] is False
    assert Path(found["package"]).is_relative_to(installed.site_packages)


def test_registration_costs_programs_of_other_models_nothing(installed):
    found = installed.report(
        """
        import json, multiprocessing, sys, threading
        sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "RegistrationHook"]
        from anomalib.models import Padim
        before = set(sys.modules), set(threading.enumerate()), multiprocessing.get_start_method(allow_none=True)
        import anomalib_grad
        anomalib_grad.register()
        from anomalib_grad import Grad, MultiCategory
        after = set(sys.modules), set(threading.enumerate()), multiprocessing.get_start_method(allow_none=True)
        multiprocessing.set_start_method("spawn")
        print(json.dumps({
            "loaded": sorted(m for m in after[0] - before[0] if m.partition(".")[0] != "anomalib_grad"),
            "threads": [t.name for t in after[1] - before[1]],
            "start method": [before[2], after[2]],
            "children": len(multiprocessing.active_children()),
        }))
        """
    )
    assert found == {"loaded": [], "threads": [], "start method": [None, None], "children": 0}


def test_importing_this_package_first_registers_as_well(installed):
    found = installed.report(
        """
        import json, sys, warnings
        warnings.simplefilter("error", RuntimeWarning)
        from anomalib_grad.lightning_model import Grad
        import anomalib.data, anomalib.models, anomalib_grad
        before = [*vars(anomalib.models)], [*anomalib.models.__all__]
        anomalib_grad.register()
        print(json.dumps({
            "same": anomalib.models.Grad is Grad and anomalib_grad.Grad is Grad,
            "data": hasattr(anomalib.data, "MultiCategory"),
            "idempotent": before == ([*vars(anomalib.models)], [*anomalib.models.__all__]),
        }))
        """
    )
    assert found == {"same": True, "data": True, "idempotent": True}


def test_lightning_without_anomalib_pays_nothing(installed):
    found = installed.report(
        """
        import json, sys, warnings
        warnings.simplefilter("error", RuntimeWarning)
        import lightning.pytorch as lightning
        trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        print(json.dumps({
            "callbacks": [type(c).__name__ for c in trainer.callbacks if "anomalib" in type(c).__module__],
            "loaded": sorted(m for m in sys.modules if m.startswith("anomalib")),
        }))
        """
    )
    assert found["callbacks"] == []
    assert set(found["loaded"]) <= {
        "anomalib_grad",
        "anomalib_grad.plugin",
        "anomalib_grad.plugin.callbacks",
        "anomalib_grad.plugin.former_names",
        "anomalib_grad.plugin.registration",
    }


def write_products(root: Path, categories: tuple[str, ...]) -> None:
    """Write small images in MVTec AD's layout: grey squares, with a white bar where anomalous."""
    random = np.random.default_rng(0)
    for category in categories:
        for split, count in {"train/good": 4, "test/good": 3, "test/bar": 3}.items():
            folder = root / category / split
            folder.mkdir(parents=True)
            for index in range(count):
                image = random.integers(90, 110, (64, 64, 3), dtype=np.uint8)
                image[20:30] = 255 if split == "test/bar" else image[20:30]
                Image.fromarray(image).save(folder / f"{index:03}.png")
        masks = root / category / "ground_truth" / "bar"
        masks.mkdir(parents=True)
        mask = np.zeros((64, 64), np.uint8)
        mask[20:30] = 255
        for index in range(3):
            Image.fromarray(mask).save(masks / f"{index:03}_mask.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the command lines run, with two products and their configurations."""
    folder = tmp_path_factory.mktemp("command_lines")
    write_products(folder / "products", ("bolt", "nut"))
    (folder / "grad.yaml").write_text("model:\n  class_path: Grad\n  init_args:\n    fusion: small\n")
    (folder / "full.yaml").write_text("model:\n  class_path: anomalib_grad.Grad\n  init_args:\n    fusion: small\n")
    grad = {**MODEL, "image_size": [64, 64], "training": {"max_epochs": 1}}
    padim = {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False}
    data = {"root": "products", "num_workers": 0, "train_batch_size": 4}
    each = {"class_path": "MVTecAD", "init_args": {**data, "category": {"grid": ["bolt", "nut"]}}}
    for index, (names, arguments, products) in enumerate(
        (
            (["Grad", "anomalib_grad.Grad"], grad, {"class_path": "MultiCategory", "init_args": data}),
            (["Grad"], grad, each),
            (["Padim"], padim, each),  # anomalib's pipeline loses results of models that do not take the same arguments
        )
    ):
        model = {"class_path": {"grid": names}, "init_args": arguments}
        config = {"accelerator": "cpu", "benchmark": {"seed": 1, "model": model, "data": products}}
        (folder / f"{index}.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder


SMALL = ("--model.backbone", "mobilenetv2_100", "--model.fusion", "small", "--model.pre_trained", "false")
BOTTLE = ("--data", "MVTecAD", "--data.category", "bottle")
RECIPE = ("--model", "Grad", "--model.recipe", "plus", "--model.training.learning_rate", "0.002")
NAMES = [
    ["train", "--model", "Grad", *SMALL, *BOTTLE, "--print_config"],
    ["train", "--model", "anomalib_grad.Grad", *SMALL, *BOTTLE, "--print_config"],
    ["train", "--config", "grad.yaml", *BOTTLE, "--print_config"],
    ["train", "--config", "full.yaml", *BOTTLE, "--print_config"],
    ["train", "--model", "Grad", *SMALL, "--data", "MultiCategory", "--print_config"],
    ["test", "--model", "Grad", *SMALL, *BOTTLE, "--print_config"],
    ["predict", "--model", "Grad", *SMALL, *BOTTLE, "--print_config"],
    ["export", "--model", "Grad", *SMALL, "--export_type", "openvino", "--print_config"],
    ["fit", "--model", "Grad", *SMALL, *BOTTLE, "--print_config"],
    ["validate", "--model", "Grad", *SMALL, *BOTTLE, "--print_config"],
    ["fit", *RECIPE, "--model.fusion", "small", *BOTTLE, "--print_config"],
]
"""``--print_config`` resolves names and arguments and stops there."""
REFUSED = {
    "--model.bakcbone": "error: Grad has no argument --model.bakcbone; did you mean --model.backbone?\n",
    "--model.fusion": "error: unknown fusion 'other'; choose one of residual, mobile, small.\n",
}
RESULTS = "results/Grad/products/v0"
CHECKPOINT = ("--ckpt_path", f"{RESULTS}/weights/lightning/model.ckpt")
LIFE = [
    [
        *("train", "--model", "Grad", "--model.recipe", "plus", "--model.backbone", "grad_tiny"),
        *("--model.image_size", "[64, 64]", "--model.training.steps", "4", "--data", "MultiCategory"),
        *("--data.root", "products", "--data.num_workers", "0", "--data.train_batch_size", "4"),
        *("--trainer.accelerator", "cpu"),
    ],
    [
        *("predict", "--model", "Grad", "--data", "products/nut/test/bar/000.png", *CHECKPOINT),
        *("--default_root_dir", "judged"),
    ],
    ["export", "--model", "Grad", "--export_type", "openvino", *CHECKPOINT],
]
BENCHMARKS = [["benchmark", "--config", f"{index}.yaml"] for index in range(3)]


class Answers(NamedTuple):
    """Exit code, output and errors of each command line."""

    names: list[tuple[int, str, str]]
    refused: list[tuple[int, str, str]]
    life: list[tuple[int, str, str]]
    benchmarks: list[tuple[int, str, str]]


@pytest.fixture(scope="module")
def answers(installed, folder) -> Answers:
    """All command lines in one process."""
    wrong = [["train", "--model", "Grad", *SMALL, *BOTTLE, argument, "other"] for argument in REFUSED]
    groups = Answers(NAMES, wrong, LIFE, BENCHMARKS)
    code = f"import os; os.chdir({str(folder)!r})\n" + COMMAND_LINES
    given = iter(installed.report(code, json.dumps([command for group in groups for command in group]))["answers"])
    return Answers(*([next(given) for _ in group] for group in groups))


def test_every_command_line_name_resolves(answers):
    for command, (code, printed, failed) in zip(NAMES, answers.names, strict=True):
        assert code == 0, f"{command}: {failed}"
        assert "class_path: anomalib_grad.Grad" in printed, command
        assert "fusion: small" in printed, command
    assert "MultiCategory" in answers.names[4][1]
    assert "recipe: plus" in answers.names[-1][1]
    assert "learning_rate: 0.002" in answers.names[-1][1]


def test_wrong_arguments_are_refused_in_a_sentence(answers):
    assert [answer[::2] for answer in answers.refused] == [[2, sentence] for sentence in REFUSED.values()]


def test_the_command_line_trains_a_recipe_and_predicts_and_exports_with_nothing_repeated(answers, folder):
    assert [code for code, *_ in answers.life] == [0, 0, 0], answers.life
    assert "bolt/image_AUROC" in answers.life[0][1]
    assert len(list((folder / RESULTS / "images").rglob("*.png"))) == 12
    assert len(list((folder / "judged").rglob("*.png"))) == 1
    assert len(list(folder.rglob("model.xml"))) == 1


def test_benchmarks_of_many_products_and_of_two_models_lack_no_figure(answers, folder):
    assert [code for code, *_ in answers.benchmarks] == [0, 0, 0], answers.benchmarks
    tables = [pd.read_csv(file) for file in sorted((folder / "runs").rglob("results.csv"))]
    assert list(tables[0]["model.class_path"]) == ["Grad", "anomalib_grad.Grad"]
    assert tables[0]["bolt/image_AUROC"].between(0, 1).all()
    rows = pd.concat(tables[1:])
    assert list(zip(rows["model.class_path"], rows["data.init_args.category"], strict=True)) == [
        (model, product) for model in ("Grad", "Padim") for product in ("bolt", "nut")
    ]
    for figure in ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"):
        assert pd.concat(tables)[figure].between(0, 1).all(), figure


def test_broken_package_is_one_warning_and_anomalib_works(installed):
    module = installed.site_packages / "anomalib_grad" / "lightning_model.py"
    whole = module.read_text()
    module.write_text("raise OSError('on purpose')\n")
    try:
        printed, warned = installed.run("from anomalib.models import list_models; print('padim' in list_models())")
    finally:
        module.write_text(whole)
    assert printed.splitlines()[-1] == "True"
    assert warned.count("GRAD could not be registered") == 1
    assert "OSError: on purpose" in warned


def test_uninstalling_leaves_nothing(empty, wheel):
    empty.pip("install", "--no-deps", str(wheel))
    assert "anomalib_grad.pth" in empty.ours()
    assert empty.run(f"import sys; print({HOOKED})")[0] == "True\n"
    empty.pip("uninstall", "--yes", "anomalib-grad")
    assert empty.ours() == []
    assert empty.run(f"import sys; print({HOOKED})") == ("False\n", "")


def test_editable_install_has_the_hook(empty):
    empty.pip("install", "--no-deps", "--editable", str(ROOT))
    code = f"import sys; print({HOOKED}); import anomalib_grad; print(anomalib_grad.__file__)"
    assert empty.run(code) == (f"True\n{ROOT / 'anomalib_grad' / '__init__.py'}\n", "")
    empty.pip("uninstall", "--yes", "anomalib-grad")
    assert empty.ours() == []
