# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Cache files: complete or not there, bounded, safe against what others leave in their place."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anomalib_grad.feature_cache.store import GIB, CacheFile, evict_least_recent, reserve

FLOAT32 = np.dtype("float32")
ROWS = np.arange(12, dtype=FLOAT32).reshape(3, 4)


def fill(rows: np.ndarray) -> None:
    rows[:] = ROWS


def filled(folder: Path, name: str = "name") -> CacheFile:
    file = CacheFile(folder, name, ROWS.shape, FLOAT32)
    assert file.begin(limit=GIB)
    file.write(fill)
    file.finish()
    return file


def test_a_filled_file_gives_its_rows_and_need_not_be_filled_again(tmp_path: Path) -> None:
    filled(tmp_path / "new" / "folder")
    again = CacheFile(tmp_path / "new" / "folder", "name", ROWS.shape, FLOAT32)
    assert not again.begin(limit=GIB)
    np.testing.assert_array_equal(again.read(), ROWS)


def test_a_run_killed_while_filling_leaves_nothing_that_is_read_and_no_lock(tmp_path: Path) -> None:
    killed = f"""
import os, signal
from pathlib import Path
import numpy as np
from anomalib_grad.feature_cache.store import CacheFile
file = CacheFile(Path({str(tmp_path)!r}), "name", (3, 4), np.dtype("float32"))
file.begin(limit=2**30)
file.write(lambda rows: rows.fill(7) or os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False, timeout=300).returncode < 0
    assert (tmp_path / "name.unfinished").exists()
    assert CacheFile(tmp_path, "name", ROWS.shape, FLOAT32).read() is None
    np.testing.assert_array_equal(filled(tmp_path).read(), ROWS)
    assert not (tmp_path / "name.unfinished").exists()


@pytest.mark.parametrize("content", [b"", b"no array", b"half"], ids=["empty", "other", "truncated"])
def test_what_is_not_the_whole_array_is_filled_anew(tmp_path: Path, content: bytes) -> None:
    file = filled(tmp_path)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: len(whole) - 5] if content == b"half" else content)
    np.testing.assert_array_equal(filled(tmp_path).read(), ROWS)


@pytest.mark.parametrize("place", [-20, -1], ids=["a feature", "the check sum"])
def test_a_changed_byte_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int) -> None:
    file = filled(tmp_path)
    content = bytearray(file.path.read_bytes())
    content[place] ^= 1
    file.path.write_bytes(content)
    np.testing.assert_array_equal(filled(tmp_path).read(), ROWS)
    assert f"The feature cache {file.path} is damaged" in caplog.text


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "exploded"),)

    with CacheFile(tmp_path, "name", ROWS.shape, FLOAT32).path.open("wb") as file:
        np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(filled(tmp_path).read(), ROWS)
    assert not (tmp_path / "exploded").exists()


def test_an_archive_of_arrays_is_filled_anew(tmp_path: Path) -> None:
    with CacheFile(tmp_path, "name", ROWS.shape, FLOAT32).path.open("wb") as file:
        np.savez(file, ROWS)
    np.testing.assert_array_equal(filled(tmp_path).read(), ROWS)


def test_the_next_run_removes_what_killed_ones_left_and_leaves_what_others_are_filling(tmp_path: Path) -> None:
    (tmp_path / f"{'a' * 32}.unfinished").touch()
    filling = CacheFile(tmp_path, "f" * 32, ROWS.shape, FLOAT32)
    assert filling.begin(limit=GIB)
    filled(tmp_path)
    assert [path.name for path in tmp_path.glob("*.unfinished")] == [f"{'f' * 32}.unfinished"]
    filling.abort()


def test_nothing_but_caches_is_removed(tmp_path: Path) -> None:
    (tmp_path / "report.unfinished").touch()
    (tmp_path / ".model.ckpt.abcd.unfinished").mkdir()  # left by a checkpoint's writer that was killed
    (tmp_path / "bottle.features.npy").write_bytes(bytes(10**6))
    before = set(tmp_path.iterdir())
    filled(tmp_path)
    evict_least_recent(tmp_path, available=0)
    assert before <= set(tmp_path.iterdir())


@pytest.mark.parametrize("position", range(0, 1024, 11))
def test_a_changed_bit_in_the_header_is_noticed(tmp_path: Path, position: int) -> None:
    path = filled(tmp_path).path
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)
    np.testing.assert_array_equal(filled(tmp_path).read(), ROWS)


def test_a_cache_under_the_name_of_another_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = filled(tmp_path, "a" * 32).path
    file.rename(file.with_name(f"{'b' * 32}.features.npy"))
    filled(tmp_path, "b" * 32)
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("suffix", ["features.npy", "unfinished"])
def test_a_pipe_in_the_place_of_a_cache_is_replaced(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"name.{suffix}")
    np.testing.assert_array_equal(filled(tmp_path).read(), ROWS)


def test_an_array_of_another_shape_or_type_is_not_taken(tmp_path: Path) -> None:
    filled(tmp_path)
    assert CacheFile(tmp_path, "name", (4, 3), FLOAT32).read() is None
    assert CacheFile(tmp_path, "name", ROWS.shape, np.dtype("float16")).read() is None


def test_the_least_recently_used_caches_make_room(tmp_path: Path) -> None:
    for age, letter in enumerate("abc"):
        name = letter * 32
        path = filled(tmp_path, name).path
        os.utime(path, (1e9 - age, 1e9 - age))
    assert CacheFile(tmp_path, "c" * 32, ROWS.shape, FLOAT32).read() is not None  # used once more
    (tmp_path / "of_the_user.npy").write_bytes(bytes(10**6))
    size = path.stat().st_size
    evict_least_recent(tmp_path, available=2 * size)
    left = sorted(path.name.split(".")[0] for path in tmp_path.glob("*.npy"))
    assert left == ["a" * 32, "c" * 32, "of_the_user"]


def test_a_full_disk_stops_before_anything_is_computed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(
        OSError, match=r"needs \d.* GiB in .* \(No space left on device\); .*choose another cache.folder"
    ):
        filled(tmp_path)
    assert not list(tmp_path.glob("*.npy")) + list(tmp_path.glob("*.unfinished"))
    monkeypatch.undo()
    filled(tmp_path)  # the lock is free


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write feature caches to .*file.*set feature_cache to false"):
        filled(tmp_path / "file")


def test_a_folder_in_the_place_of_a_cache_is_named(tmp_path: Path) -> None:
    CacheFile(tmp_path, "name", ROWS.shape, FLOAT32).path.mkdir()
    with pytest.raises(OSError, match=r"caches to .* \(name\.features\.npy is a folder; remove it\); .*to false"):
        filled(tmp_path)


def test_systems_without_fallocate_get_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    with (tmp_path / "file").open("wb") as file:
        reserve(file.fileno(), 0, 2**24 + 3)
    assert (tmp_path / "file").stat().st_size == 2**24 + 3
    np.testing.assert_array_equal(filled(tmp_path).read(), ROWS)
