# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Write a file completely or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def writing(target: str | Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``target`` when the block ends without an error.

    Args:
        target: The file to write; an existing one stays as it is until then.

    Yields:
        A path on the same file system.

    Raises:
        FileNotFoundError: If the target's folder does not exist.
        IsADirectoryError: If the target is a folder.
    """
    target = Path(target)
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder; name a file to write.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write {target.name!r} to; create it.")
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        unfinished = Path(folder) / target.name
        yield unfinished
        unfinished.replace(target)
