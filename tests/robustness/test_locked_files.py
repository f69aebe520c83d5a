# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Folders and files that the user may not read: one sentence names the product, the place, and what to do."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anomalib_grad.data import MultiCategory, PredictImages
from anomalib_grad.files.refusals import sentence_of
from helpers import write_category

NOBODY = 65534


@pytest.fixture(scope="module")
def shop() -> Iterator[Path]:
    """Two products where every user may go: pytest's own folders are open to their owner alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name in ("nut", "pin"):
            write_category(Path(folder) / name)
        yield Path(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Deny a path to this process, which must not be root meanwhile, whom nothing is denied."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def setup(root: Path, **arguments: object) -> MultiCategory:
    data = MultiCategory(root=root, num_workers=0, **arguments)
    data.setup()
    return data


@pytest.mark.parametrize(
    ("place", "use", "said"),
    [
        (
            "nut/train/good",
            setup,
            "category 'nut': cannot read folder '{}': permission denied; give this user permission to read it",
        ),
        ("nut", setup, "cannot read folder '{}': permission denied; give this user permission to read it"),
        (".", setup, "cannot read folder '{}': permission denied; give this user permission to read it"),
        (
            "nut",
            lambda root: setup(root, categories=["nut"]),
            "cannot read folder '{}': permission denied; give this user permission to read it",
        ),
        (
            "nut/train/good/000.png",
            lambda root: setup(root, categories=["nut"]).train_data[0],
            "could not read image '{}': Permission denied; give this user permission to read it",
        ),
        (
            "nut/ground_truth/spot/000_mask.png",
            setup,
            "could not read mask '{}': Permission denied; give this user permission to read it",
        ),
        ("nut", PredictImages, "cannot read folder '{}': permission denied; give this user permission to read it"),
    ],
)
def test_what_may_not_be_read_is_named(shop: Path, place: str, use: Callable[[Path], object], said: str) -> None:
    path = shop / place
    setup(shop)  # what it imports may be closed to others as well
    with locked(path), pytest.raises((OSError, ValueError), match=re.escape(said.format(path))) as error:
        use(shop)
    assert "Errno" not in str(sentence_of(error.value))
    assert str(sentence_of(error.value)).startswith(said.format(path))
