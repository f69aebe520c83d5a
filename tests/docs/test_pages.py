# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation builds without a network, what it names exists, and its Python blocks run."""

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from PIL import Image
from safetensors.torch import save_file

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.backbone import FrozenBackbone
from helpers import tiny, write_category

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"^(?:uv run|.*python) ((?:examples|tests)/[\w/.]+)(.*)", re.MULTILINE)
OPTION = re.compile(r"(?<=[\s\[])--[a-z][\w-]*")
DOCUMENTED = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
NAMED_FILE = re.compile(r"(?<![\w/.])((?:anomalib_grad|configs|examples|tests|tools|docs)/[\w/.-]*\w)")


def commands() -> dict[str, set[str]]:
    """Scripts that the pages name, and the options that are given there."""
    named: dict[str, set[str]] = {}
    for page in PAGES:
        for script, rest in SCRIPT.findall(page.read_text()):
            named.setdefault(script, set()).update(OPTION.findall(rest))
    return named


COMMANDS = commands()
SCRIPT_FOLDERS = {PROJECT / "examples", PROJECT / "tests/benchmarks"}


def blocks(page: Path) -> list[str]:
    """Python blocks of a page; trainings are cut down to one epoch, of small models unless the page says a size."""
    text = re.sub(r"max_epochs=\d+", "max_epochs=1", page.read_text())
    text = re.sub(r'fusion="small"(?=\)|, false)', 'fusion="small", image_size=(64, 64)', text)
    text = re.sub(r'("grad_tiny", fusion="small")(?!, method)', r'\1, method={"num_blocks": 0}', text)
    text = re.sub(r"(Padim\([^)]*)\)", r"\1, pre_processor=Padim.configure_pre_processor((64, 64)))", text)
    return [code for _, code in BLOCK.findall(text)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder with what the pages take for granted, and the names that README's snippets take for granted."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("bottle", "nut"):
        write_category(folder / "products" / name, side=64)
    Image.new("RGB", (80, 60), "grey").save(folder / "image.png")
    network = FrozenBackbone("mobilenetv2_100", pre_trained=False).network
    save_file(network.state_dict(), folder / "weights.safetensors")
    torch.manual_seed(0)
    data = MultiCategory(root=folder / "products", train_batch_size=4, num_workers=0)
    engine = Engine(max_epochs=1, default_root_dir=folder / "first", accelerator="cpu", logger=False)
    model = Grad(**tiny(backbone="grad_tiny"))  # an export takes half of the time
    engine.fit(model, datamodule=data)
    engine.trainer.save_checkpoint(folder / "grad.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # for OpenVINO's cache
        model.to_openvino("results")
    return {"folder": folder, "engine": engine, "data": data, "Grad": Grad}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_python_blocks_run_in_their_order(
    page: Path, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.chdir(trained["folder"])
    names = {name: trained[name] for name in ("engine", "data", "Grad")} if page.name == "README.md" else {}
    for code in blocks(page):
        exec(compile(code, page.name, "exec"), names)  # noqa: S102  # the project's own pages


def test_most_pages_have_blocks() -> None:
    assert len([page for page in PAGES if blocks(page)]) >= 5


@pytest.mark.parametrize("page", [*PAGES, PROJECT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(NAMED_FILE.findall(page.read_text()))
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Forgets what scripts import from beside them: the folders have files of the same names."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if SCRIPT_FOLDERS.intersection(Path(getattr(sys.modules[name], "__file__", None) or "/").parents):
            del sys.modules[name]


@pytest.mark.parametrize(("script", "given"), COMMANDS.items(), ids=COMMANDS)
def test_scripts_have_the_options_with_which_they_are_named(
    script: str, given: set[str], own_modules: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = PROJECT / script
    monkeypatch.syspath_prepend(path if path.is_dir() else path.parent)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(path), run_name="__main__")
    assert given <= set(OPTION.findall(capsys.readouterr().out))


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150


def test_names_of_the_reference_can_be_imported_as_they_stand_there() -> None:
    names = [name.rpartition(".") for name in DOCUMENTED.findall((PROJECT / "docs/reference.md").read_text())]
    assert names
    assert [f"{module}.{own}" for module, _, own in names if not hasattr(import_module(module), own)] == []


@pytest.mark.slow
def test_the_site_builds_and_documents_every_public_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    deciding = re.findall(r"\d+\.\d ± \d\.\d", (PROJECT / "README.md").read_text())
    shown = (tmp_path / "benchmarks/index.html").read_text()
    assert deciding
    assert [figure for figure in deciding if figure not in shown] == []  # written down in the README only
    reference = (tmp_path / "reference/index.html").read_text()
    for name in ("Grad", "GradModel", "MultiCategory", "register"):
        assert re.search(rf'id="anomalib_grad\.[\w.]*\.{name}"', reference), name
