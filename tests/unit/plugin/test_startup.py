# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The start-up hook, in fresh interpreters with small packages in the place of anomalib and this one.

The real packages go through the same hook in tests/integration; here every order of imports is affordable.
"""

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

STARTUP = Path(__file__).parents[3] / "anomalib_grad" / "plugin" / "startup.py"
PACKAGES = {
    "anomalib/__init__.py": "",
    "anomalib/data.py": "",
    "anomalib/models.py": "import anomalib.data\nnames = ['Padim']\n",
    "anomalib/visualization/__init__.py": "from .image import functional\nclass ImageVisualizer: ...\n",
    "anomalib/visualization/image/__init__.py": "import anomalib.data\n",
    "anomalib/visualization/image/functional.py": "",
    "anomalib/engine.py": "import anomalib.models\nimport anomalib.visualization\nclass Engine: ...\n",
    "anomalib_grad/__init__.py": "",
    "anomalib_grad/data.py": (
        "import anomalib.data\nfrom anomalib.visualization import ImageVisualizer\nclass MultiCategory: ...\n"
    ),
    "anomalib_grad/torch_model.py": "import anomalib.data\nclass GradModel: ...\n",
    "anomalib_grad/lightning_model.py": (
        "import anomalib.models\nfrom anomalib.engine import Engine\n"
        "from anomalib_grad.torch_model import GradModel\nclass Grad: ...\n"
    ),
    "anomalib_grad/plugin/__init__.py": "",
    "anomalib_grad/plugin/registration.py": """
def register_with(registry):
    from anomalib_grad.data import MultiCategory
    if registry.__name__ == "anomalib.models":
        from anomalib_grad.lightning_model import Grad
    print("registered", registry.__name__)
""",
}
BEGIN = "import os, sys; before = set(sys.modules)\nimport startup; startup.install()\n"
HOOKED = "print('hooked', any(type(f).__name__ == 'RegistrationHook' for f in sys.meta_path))\n"
BOTH = ["registered anomalib.data", "registered anomalib.models"]


@pytest.fixture
def packages(tmp_path):
    for name, source in PACKAGES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    (tmp_path / "startup.py").write_text(STARTUP.read_text())
    return tmp_path


def run(packages, code, **variables):
    """Run code after the hook in a bare interpreter and return what it prints and its warnings."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", BEGIN + code],
        cwd=packages,
        env={**os.environ, "ANOMALIB_GRAD_DISABLE": "", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import anomalib.models",
        "import anomalib.data\nimport anomalib.models",
        "import anomalib.visualization.image.functional\nimport anomalib.models",
        "import anomalib.engine",
        "import anomalib_grad.lightning_model",
        "import anomalib_grad.torch_model\nimport anomalib.models",
        "import anomalib_grad.data\nimport anomalib_grad.lightning_model",
        "import anomalib.models\nimport anomalib.data\nimport anomalib_grad.lightning_model",
    ],
)
def test_registers_once_with_each_registry_whatever_is_imported_first(packages, code):
    printed, warned = run(packages, f"{code}\n{HOOKED}")
    assert printed == [*BOTH, "hooked False"]
    assert warned == ""


def test_waits_for_the_models_when_only_the_data_are_imported(packages):
    printed, _ = run(packages, f"import anomalib.data\n{HOOKED}import anomalib.models\n{HOOKED}")
    assert printed == [BOTH[0], "hooked True", BOTH[1], "hooked False"]


def test_loads_no_module_but_itself_and_leaves_other_programs_alone(packages):
    printed, warned = run(packages, f"print(sorted(set(sys.modules) - before))\nimport json\n{HOOKED}")
    assert printed == ["['startup']", "hooked True"]
    assert warned == ""


def test_installing_again_changes_nothing(packages):
    printed, _ = run(packages, "finders = [*sys.meta_path]; startup.install(); print(finders == sys.meta_path)")
    assert printed == ["True"]


def test_works_beside_a_finder_that_asks_all_finders(packages):
    code = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        specs = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self)
        return next((s for s in specs if s), None)
sys.meta_path.insert({position}, Finder())
import anomalib.models
"""
    for position in (0, 1):
        printed, warned = run(packages, code.format(position=position))
        assert printed == BOTH
        assert warned == ""


def test_leaves_the_loader_as_it_was(packages):
    printed, _ = run(packages, "import anomalib.models as m\nprint('exec_module' in vars(m.__spec__.loader))")
    assert printed[-1] == "False"


@pytest.mark.parametrize(("value", "hooked"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_switch(packages, value, hooked):
    printed, _ = run(packages, f"{HOOKED}import anomalib.models", ANOMALIB_GRAD_DISABLE=value)
    assert printed == [f"hooked {hooked}", *(BOTH if hooked else [])]


@pytest.mark.parametrize(
    ("broken", "source", "reason"),
    [
        (
            "plugin/registration.py",
            "def register_with(registry): raise KeyError('on purpose')",
            "KeyError: 'on purpose'",
        ),
        ("plugin/registration.py", "def register_with(:", "SyntaxError"),
        ("lightning_model.py", "raise ImportError('on purpose')", "ImportError: on purpose"),
    ],
)
def test_broken_registration_is_one_warning_and_anomalib_works(packages, broken, source, reason):
    (packages / "anomalib_grad" / broken).write_text(source)
    printed, warned = run(packages, f"import anomalib.data, anomalib.models\nprint(anomalib.models.names)\n{HOOKED}")
    assert printed[-2:] == ["['Padim']", "hooked False"]
    assert warned.count("RuntimeWarning: GRAD could not be registered") == 1
    assert reason in warned
    assert "ANOMALIB_GRAD_DISABLE=1" in warned


def test_missing_package_is_one_warning(packages):
    for file in sorted((packages / "anomalib_grad").rglob("*.py")):
        file.unlink()
    printed, warned = run(packages, "import anomalib.models\nprint(anomalib.models.names)")
    assert printed == ["['Padim']"]
    assert warned.count("RuntimeWarning") == 1


def test_loader_that_cannot_be_watched_is_one_warning(packages):
    code = """
from importlib.machinery import PathFinder, SourceFileLoader
class Sealed:
    __slots__ = ("inner",)
    def __init__(self, inner): self.inner = inner
    def create_module(self, spec): return None
    def exec_module(self, module): self.inner.exec_module(module)
class Finder:
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        if spec: spec.loader = Sealed(spec.loader)
        return spec
sys.meta_path.insert(1, Finder())
import anomalib.models
print(anomalib.models.names)
"""
    printed, warned = run(packages, code)
    assert printed == ["['Padim']"]
    assert warned.count("RuntimeWarning: GRAD could not be registered") == 1


def test_failed_import_of_anomalib_stays_its_own_error(packages):
    code = """
try:
    import anomalib.models
except ModuleNotFoundError as error:
    print(error.name)
sys.modules["not_installed"] = sys
import anomalib.models
"""
    (packages / "anomalib" / "models.py").write_text("import anomalib.data, not_installed\n")
    printed, warned = run(packages, code)
    assert printed == [BOTH[0], "not_installed", BOTH[1]]
    assert warned == ""


def test_registers_though_the_import_that_brought_the_models_failed(packages):
    (packages / "anomalib" / "loggers.py").write_text("import anomalib.models, not_installed\n")
    code = f"try:\n    import anomalib.loggers\nexcept ModuleNotFoundError as error:\n    print(error.name)\n{HOOKED}"
    printed, warned = run(packages, code)
    assert printed == [*BOTH, "not_installed", "hooked False"]
    assert warned == ""


def test_warnings_of_anomalib_name_the_line_that_caused_them(packages):
    warns = "import warnings\nwarnings.warn('old', FutureWarning, stacklevel=2)\n"
    (packages / "anomalib" / "visualization" / "image" / "functional.py").write_text(warns)
    _, warned = run(packages, "import anomalib.models")
    assert "visualization/__init__.py:1: FutureWarning" in warned


def test_failed_import_of_this_package_stays_its_own_error(packages):
    (packages / "anomalib_grad" / "lightning_model.py").write_text("import anomalib.models\nundefined\n")
    code = "try:\n    import anomalib_grad.lightning_model\nexcept NameError as error:\n    print(error.name)"
    printed, warned = run(packages, code)
    assert printed == ["undefined"]
    assert warned == ""


def test_costs_less_than_a_millisecond(packages):
    py_compile.compile(str(packages / "startup.py"))  # as installing does
    code = "t = now(); import startup; startup.install(); print(now() - t)"
    command = [sys.executable, "-S", "-c", f"import os, sys; from time import perf_counter as now; {code}"]
    seconds = [
        float(subprocess.run(command, cwd=packages, capture_output=True, text=True, check=True).stdout)
        for _ in range(10)
    ]
    assert min(seconds) < 1e-3
