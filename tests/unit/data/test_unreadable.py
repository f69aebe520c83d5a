# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Files are decoded once, and again when they change."""

import os
from pathlib import Path

from PIL import Image

from anomalib_grad.data.read_or_refuse import DEFAULT_FORMAT
from anomalib_grad.data.unreadable import find_unreadable


def test_an_image_repaired_under_its_old_size_and_time_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "000.bmp"
    Image.new("RGB", (8, 8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    file, status = (str(path), False), path.stat()
    assert list(find_unreadable([file], DEFAULT_FORMAT)) == [file]
    path.write_bytes(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find_unreadable([file], DEFAULT_FORMAT) == {}
