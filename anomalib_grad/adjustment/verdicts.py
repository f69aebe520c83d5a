# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Right verdicts on images, read from the folders or tables in which people at the line keep them."""

import csv
import logging
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import defaultdict
from itertools import dropwhile
from pathlib import Path

import pandas as pd

from anomalib_grad.data.listing import list_images
from anomalib_grad.data.prediction import images_at
from anomalib_grad.files.refusals import counted, enumerated
from anomalib_grad.report.predictions import RIGHT_LABEL

logger = logging.getLogger(__name__)

FALSE_ALARMS, MISSED = "false_alarms", "missed"
"""Names of a product's folders: good parts that were called anomalous, and bad parts that were not."""
PATH = "path"
SEPARATORS = ",;\t"
BLANK = SEPARATORS + " \r\n"
_TRUTHS = dict.fromkeys(("true", "1", "1.0", "anomalous", "bad", "defective"), True)
_TRUTHS |= dict.fromkeys(("false", "0", "0.0", "normal", "good"), False)

Verdicts = dict[str | None, list[tuple[Path, bool]]]
"""Image files by product, ``None`` for the only one, and whether each is anomalous."""


def from_folders(false_alarms: Path | None, missed: Path | None, product: str | None) -> Verdicts:
    """Read false alarms and missed images of one product from one folder each.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If a folder holds no image.
    """
    folders = ((false_alarms, False), (missed, True))
    return {product: [(image, truth) for folder, truth in folders if folder for image in images_at(folder)]}


def read_verdicts(source: Path, product: str | None = None) -> Verdicts:
    """Read verdicts from a folder or a table.

    Args:
        source: Folder with a folder per product, which holds the folders ``false_alarms`` and ``missed``, or a folder
            with these two of the named product. Or a table with a column ``right_label`` of ``normal``, ``anomalous``
            or nothing: the ``predictions.csv`` of a prediction, or what ``examples/batch_inference.py`` writes, as
            .csv or .parquet file or the folder of them.
        product: Read the verdicts on this product alone, and count the others in a warning. It is also the product of
            images for which the source names none.

    Raises:
        FileNotFoundError: If there is nothing at ``source``.
        ValueError: If it is something else, holds no verdict, or holds images in folders of other names.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; give a folder of verdicts or a table of predictions.")
    is_table = source.is_file() or any(source.glob("*.parquet"))
    found = _from_table(source, product) if is_table else _from_folder(source, product)
    verdicts = {name: images for name, images in found.items() if product in {None, name}}
    others = {name: len(images) for name, images in found.items() if name not in verdicts}
    if others:
        listed = ", ".join(f"{name} ({count})" for name, count in others.items())
        logger.warning(
            "Ignored in %s: %s on products other than %s: %s",
            source,
            counted(sum(others.values()), "verdict"),
            product,
            listed,
        )
    if not verdicts:
        whose = "" if product is None else f" on {product}"
        column = f"write normal or anomalous into its column {RIGHT_LABEL!r}"
        wanted = column if is_table else f"put images into its folders {FALSE_ALARMS} and {MISSED}"
        raise ValueError(f"{source} holds no verdicts{whose}: {wanted}.")
    return verdicts


def _from_folder(source: Path, product: str | None) -> Verdicts:
    verdicts: Verdicts = {}
    places = {product: source} if any((source / name).is_dir() for name in (FALSE_ALARMS, MISSED)) else {}
    if not places:
        places = {one.name: one for one in sorted(source.iterdir()) if one.is_dir()}
    for name, place in places.items():
        images = [(image, image.relative_to(place).parts[0]) for image in list_images(place)]
        misplaced = next((image for image, verdict in images if verdict not in (FALSE_ALARMS, MISSED)), None)
        if misplaced is not None:
            raise ValueError(
                f"{misplaced} is not in a folder of verdicts, so nothing was changed; in {place}, move images into "
                f"folders called {FALSE_ALARMS} or {MISSED}."
            )
        if images:
            verdicts[name] = [(image, verdict == MISSED) for image, verdict in images]
    return verdicts


def _from_table(source: Path, product: str | None) -> Verdicts:
    try:
        table = _read_csv(source) if source.suffix == ".csv" else pd.read_parquet(source)
    except (ValueError, OSError, ImportError, csv.Error) as error:
        raise ValueError(
            f"cannot read the table of predictions {source} ({error}); give a .csv in UTF-8, or a .parquet file."
        ) from error
    missing = [name for name in (PATH, RIGHT_LABEL) if name not in table]
    if missing:
        columns = enumerated(map(repr, table.columns)) or "none"
        raise ValueError(
            f"the table of predictions {source} has no column {missing[0]!r} (its columns: {columns}); add it."
        )
    verdicts: defaultdict[str | None, list[tuple[Path, bool]]] = defaultdict(list)
    for row in table[table[RIGHT_LABEL].notna()].to_dict("records"):
        truth = _TRUTHS.get(str(row[RIGHT_LABEL]).strip().lower())
        if truth is None:
            raise ValueError(
                f"{row[RIGHT_LABEL]!r} in column {RIGHT_LABEL!r} of {source} is not a verdict; write normal or "
                "anomalous."
            )
        if pd.isna(row[PATH]):
            raise ValueError(f"{source} has a verdict without the path of its image; add the path.")
        category = row.get("category")
        shown = product if category is None or pd.isna(category) else str(category).strip()
        verdicts[shown].append((Path(row[PATH]), truth))
    return dict(verdicts)


def _read_csv(source: Path) -> pd.DataFrame:
    """Read all values as text: products may be called ``NA``, and file names need not be UTF-8.

    Spreadsheets write semicolons instead of commas in countries with decimal commas, and UTF-16 on request. People add
    blank rows, notes in cells beside the table, and the line ``sep=;``, by which Excel tells the separator.
    """
    with source.open("rb") as file:
        is_utf16 = file.read(2) in {BOM_UTF16_LE, BOM_UTF16_BE}
    encoding, errors = ("utf-16", "strict") if is_utf16 else ("utf-8-sig", "surrogateescape")
    with source.open(encoding=encoding, errors=errors, newline="") as file:
        lines = list(dropwhile(lambda line: not line.strip(BLANK) or line.startswith("sep="), file))
    if not lines:
        raise ValueError("it is empty")
    separator = max(SEPARATORS, key=lines[0].count)
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    names = [name.strip() for name in next(rows)]
    cells = [{name: cell for name, cell in zip(names, row, strict=False) if cell.strip()} for row in rows]
    return pd.DataFrame(filter(None, cells), columns=list(filter(None, dict.fromkeys(names))), dtype=object)
