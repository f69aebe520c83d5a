# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A run needs its folder, not the link ``latest`` to it, which many file systems cannot hold."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest
from anomalib.engine import engine

from anomalib_grad import register
from anomalib_grad.files.atomic import CannotWriteError


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


def test_folders_are_numbered_and_linked_as_ever(tmp_path: Path) -> None:
    for number in range(11):
        assert engine.create_versioned_dir(tmp_path) == tmp_path / f"v{number}"
    assert (tmp_path / "latest").readlink() == tmp_path / "v10"


def test_a_file_system_without_links_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """exFAT, network shares and cloud storage have none."""

    def refuse(link: Path, target: Path, **_: object) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported", str(target), None, str(link))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for number in range(11):
        assert engine.create_versioned_dir(tmp_path) == tmp_path / f"v{number}"
    said = f"/latest to {tmp_path}/v10 (Operation not supported); the results are in {tmp_path}/v10."
    assert said in caplog.text


def test_a_folder_in_the_place_of_the_link_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A test or prediction makes it where nothing was trained before."""
    (tmp_path / "latest/images").mkdir(parents=True)
    assert engine.create_versioned_dir(tmp_path) == tmp_path / "v0"
    assert (tmp_path / "latest/images").is_dir()
    assert f"Cannot link {tmp_path}/latest" in caplog.text


@pytest.mark.parametrize(("folder", "cause"), [("file", "File exists"), ("file/results", "Not a directory")])
def test_a_file_in_the_place_of_the_folder_is_named_with_the_setting(tmp_path: Path, folder: str, cause: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match=rf"{folder}' \({cause}\).*default_root_dir"):
        engine.create_versioned_dir(tmp_path / folder)
