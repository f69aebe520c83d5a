# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""An anomalib that no longer has what registration needs still works, and one warning says what is missing."""

import subprocess
import sys

WITHOUT_A_PART = """
import sys
from importlib.machinery import PathFinder

class Changed:
    def find_spec(self, name, path=None, target=None):
        if name != "anomalib.models":
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            del module.ALLOWED_MODULES

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(1, Changed())  # behind the start-up hook, which asks it
import anomalib.models
import anomalib_grad
print(anomalib.models.get_model.__name__, anomalib.models.Padim.__name__, anomalib_grad.Grad.__name__)
"""


def test_a_missing_part_is_one_warning_and_everything_else_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_PART], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "get_model Padim Grad"
    assert done.stderr.count("GRAD could not be registered with anomalib") == 1
    assert "has no anomalib.models.ALLOWED_MODULES" in done.stderr
    assert "ANOMALIB_GRAD_DISABLE=1" in done.stderr
