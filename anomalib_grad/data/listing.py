# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Listing of a folder's images, by one rule for training, test, masks, prediction and batch inference.

=====================================================================  ===============================================
entry of a folder                                                      treatment
=====================================================================  ===============================================
``.bmp .jpeg .jpg .pgm .png .ppm .tif .tiff .webp``, in any case       an image (what its pixels are: ``pixels.py``)
a name that begins with a dot (``._x.png``, ``.ipynb_checkpoints/``)   hidden: never an image, nor is what is in it
``__MACOSX/``, ``@eaDir/``, ``$RECYCLE.BIN/`` and the like             system folders: treated as hidden
``.heic .avif .jfif .gif`` and the like (``UNSUPPORTED_SUFFIXES``)     not read: counted in a warning
any other file (``Thumbs.db``, ``notes.txt``)                          not an image
a folder, or a link to one                                             its images are listed, at any depth
a broken link, a folder ``x.png`` without images                       refused by name: it may have been an image
=====================================================================  ===============================================

Names above the listed folder do not matter: it may itself lie in a hidden folder.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from anomalib_grad.files.refusals import enumerated, explain_permission_errors

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""The suffixes that torchvision and anomalib read."""
UNSUPPORTED_SUFFIXES = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef", ".tga"}
)
"""Other formats of phones, cameras and programs, whose files users expect to be read as images."""
_SUFFIXES = IMAGE_SUFFIXES | UNSUPPORTED_SUFFIXES
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"})


def is_hidden(path: PurePath) -> bool:
    """Tell whether a path, relative to the listed folder, is hidden or lies in a hidden folder."""
    return any((part.startswith(".") and part != "..") or part in _SYSTEM_FOLDERS for part in path.parts)


def has_image_name(path: PurePath) -> bool:
    """Tell whether a path, relative to the listed folder, has the name of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)


def list_images(folder: str | Path) -> list[Path]:
    """List the images in a folder and all folders below it, by the rule of this module.

    Returns:
        Sorted paths that begin with ``folder``, including broken links that may have been images or folders. Files in
        formats that are not read are counted in a warning.

    Raises:
        OSError: If a folder cannot be listed; names it.
    """
    with explain_permission_errors():
        found = sorted(_images_below(Path(folder), frozenset()))
    others = [path for path in found if path.suffix.lower() in UNSUPPORTED_SUFFIXES]
    if others:
        logger.warning(
            "left out of %s, as their formats are not supported: %s (first: %s); save them as PNG",
            folder,
            counted_by_folder(others, Path(folder)),
            others[0].name,
        )
    return [path for path in found if path.suffix.lower() not in UNSUPPORTED_SUFFIXES]


def _images_below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield images of any format; ``above`` are the folders on the way here, to which a link may lead back."""
    status = folder.stat()
    way = above | {(status.st_dev, status.st_ino)}
    if len(way) == len(above):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if is_hidden(PurePath(entry.name)):
                continue
            if entry.is_dir():
                below = list(_images_below(path, way))
                yield from below or ([path] if has_image_name(PurePath(entry.name)) else [])
            elif path.suffix.lower() in _SUFFIXES or (not path.suffix and entry.is_symlink() and not path.exists()):
                yield path


def counted_by_folder(images: Iterable[Path], folder: Path) -> str:
    """Count images by folder, at most two levels deep, in words: ``"images: 6 in train/ok, 2 in test"``."""
    places = Counter("/".join(image.relative_to(folder).parts[:-1][:2]) or "." for image in images)
    named = [f"{count} in {place}" for place, count in sorted(places.items())]
    return f"images: {enumerated(named)}" if named else "no image"
