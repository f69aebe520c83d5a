# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Unique names of result images, within a run and among the results of earlier runs.

anomalib names a result by the folders between the data set and the image, or by the image's last folder alone, so that
``x/good/a.png`` and ``y/good/a.png`` collide.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from anomalib.utils.path import generate_output_filename

from anomalib_grad.data.listing import IMAGE_SUFFIXES
from anomalib_grad.files.atomic import write_text

RECORD = "inputs.json"
"""File beside the results that maps each result to its input."""


def output_names(
    inputs: Iterable[str], taken: Mapping[str, str], dataset: str | None = None, category: str | None = None
) -> dict[str, str]:
    """Name the results of a run.

    Three schemes are tried in turn: anomalib's name, the path below the inputs' common folder, and the whole path. The
    first without a collision is used: no two inputs share a name, and no name belongs to another input of an earlier
    run.

    Args:
        inputs: Paths of the images.
        taken: Absolute paths of the inputs of earlier runs, by the names of their results.
        dataset: Name of the data set's folder, if there is one.
        category: Name of the category's folder in it.

    Returns:
        Name of each input's result, relative to the folder of results.
    """
    files = {path: Path(os.path.abspath(path)) for path in inputs}  # noqa: PTH100  # must not follow links
    if not files:
        return {}
    common = os.path.commonpath([file.parent for file in files.values()])
    schemes = (
        {path: generate_output_filename(path, "", dataset, category, mkdir=False) for path in files},
        {path: file.relative_to(common) for path, file in files.items()},
        {path: PurePath(*file.parts[1:]) for path, file in files.items()},
    )
    choices = [{path: _as_image(name) for path, name in scheme.items()} for scheme in schemes]
    return next((names for names in choices if _are_distinct(names, files, taken)), choices[-1])


def _as_image(name: PurePath) -> str:
    return name.as_posix() if name.suffix.lower() in IMAGE_SUFFIXES else f"{name.as_posix()}.png"


def _are_distinct(names: Mapping[str, str], files: Mapping[str, Path], taken: Mapping[str, str]) -> bool:
    distinct = len(set(names.values())) == len(set(files.values()))
    return distinct and all(taken.get(name, str(files[path])) == str(files[path]) for path, name in names.items())


def read_record(folder: Path) -> dict[str, str]:
    """Read the record of inputs by result name in a folder; empty if there is none.

    Raises:
        ValueError: If the record is damaged.
    """
    file = folder / RECORD
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; remove it, or choose another folder for the results") from error


def write_record(folder: Path, record: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Add the inputs of a run to the record of earlier runs."""
    made = {name: os.path.abspath(path) for path, name in names.items()}  # noqa: PTH100
    write_text(folder / RECORD, json.dumps({**record, **made}, indent=1))
