# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Run the tests against the lowest versions that pyproject.toml allows, or against the newest on PyPI.

    python tools/compatibility.py lowest
    python tools/compatibility.py newest -m 'not slow' tests/unit

Further arguments go to pytest. The versions are installed into a virtual environment in a temporary folder, so the
development environment is unchanged. Needs uv.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}


def install(folder: Path, resolution: str, python: str) -> Path:
    """Create an environment with this package, its extras and its test dependencies.

    Args:
        folder: Folder of the environment.
        resolution: uv's resolution strategy. Indirect dependencies are the newest compatible ones.
        python: Version of the interpreter.

    Returns:
        Path of the environment's interpreter.

    Raises:
        subprocess.CalledProcessError: If the versions are incompatible; uv has printed why.
    """
    interpreter = folder / "bin" / "python"
    subprocess.run(["uv", "venv", "--quiet", "--python", python, folder], check=True)
    # --no-config: the project's configuration would pin the versions of the development environment.
    install = ["uv", "pip", "install", "--no-config", "--python", interpreter, "--resolution", resolution]
    subprocess.run([*install, "--group", "dev", "--editable", ".[loggers,ray]"], cwd=PROJECT, check=True)
    return interpreter


def main() -> int:
    """Install, test, and return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", choices=RESOLUTIONS)
    parser.add_argument("--python", default="3.11", help="version of the interpreter (default: %(default)s)")
    options, for_pytest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix=f"anomalib-grad-{options.versions}-") as folder:
        interpreter = install(Path(folder), RESOLUTIONS[options.versions], options.python)
        return subprocess.run([interpreter, "-m", "pytest", *for_pytest], cwd=PROJECT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
