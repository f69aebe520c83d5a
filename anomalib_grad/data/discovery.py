# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Discovery of a dataset's categories among its folders, and the datamodule of each."""

import inspect
import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any, TypeGuard

import anomalib.data
from anomalib.data import AnomalibDataModule, Folder, MVTecAD

from anomalib_grad.files.refusals import check_names_are_text

from .folder_layout import FolderLayout, as_list
from .listing import counted_by_folder, is_hidden, list_images
from .mvtec_layout import MVTecLayout

logger = logging.getLogger(__name__)

# Folders that mark a category, per dataset class of anomalib; any of them is enough.
_MARKERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("BMAD", "MPDD", "MVTecAD", "MVTecAD2", "MVTecLOCO", "VAD"), ("train/good",)),
    "AutoVI": ("train/good", "{category}/train/good"),
    "BTech": ("train/ok",),
    "Visa": ("train/good", "Data/Images/Normal"),
}
# Arguments of ``Folder`` for folders that a category may lack.
_OPTIONAL_FOLDERS = ("normal_test_dir", "abnormal_dir", "mask_dir")
# This package's replacements for anomalib's datamodules.
_LAYOUTS: dict[type[AnomalibDataModule], type[AnomalibDataModule]] = {MVTecAD: MVTecLayout, Folder: FolderLayout}
# Arguments by which the datamodules of categories differ.
_OWN_ARGUMENTS = frozenset({"root", "category", "name"})
# "mean" is the row of means over categories, "unknown" a model's answer for product types that it has not seen.
_RESERVED = frozenset({"mean", "unknown", ".", ".."})


def resolve_datamodule_class(name: str) -> type[AnomalibDataModule]:
    """Return a datamodule class by its name in ``anomalib.data`` (``"MVTecAD"``) or path (``"my_package.MyData"``).

    Raises:
        ValueError: If there is no such datamodule.
    """
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(import_module(module_name or "anomalib.data"), class_name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"dataset '{name}' cannot be imported: {error}; give an importable class path") from error
    if not _is_datamodule(found):
        known = ", ".join(key for key, _ in inspect.getmembers(anomalib.data, _is_datamodule))
        raise ValueError(f"dataset '{name}' is not an anomalib datamodule; use a class path or one of {known}")
    return found


def _is_datamodule(value: object) -> TypeGuard[type[AnomalibDataModule]]:
    return inspect.isclass(value) and issubclass(value, AnomalibDataModule) and value is not AnomalibDataModule


def discover_categories(
    root: Path,
    datamodule_class: type[AnomalibDataModule],
    dataset_args: Mapping[str, Any],
) -> list[str]:
    """Return the sorted names of all folders in ``root`` that are categories; log the others in one message.

    For ``Folder``, the argument ``normal_dir`` in ``dataset_args`` says what a category must contain.

    Raises:
        FileNotFoundError: If ``root`` is not a folder.
        ValueError: If no folder is a category, if one looks like a category but cannot be read, if ``root`` has a
            broken link, or if the class's layout is unknown.
    """
    markers = _markers(datamodule_class, dataset_args)
    if not markers:
        raise ValueError(
            f"the categories of {datamodule_class.__name__} cannot be found automatically; give categories as a list"
        )
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; give the folder that holds one folder per category as root"
        )
    base = _base(root, datamodule_class)
    entries = sorted(path for path in base.iterdir() if not is_hidden(PurePath(path.name)))
    lost = next((path for path in entries if path.is_symlink() and not path.exists()), None)
    if lost is not None:  # a product on an unmounted disk must not drop out of a night's training
        raise ValueError(
            f"{lost} is a link to {lost.resolve()}, which does not exist; repair the link, or give categories as a list"
        )
    folders = [path for path in entries if path.is_dir()]
    categories = [path.name for path in folders if _is_category(path, markers)]
    if not categories:
        raise ValueError(f"no folder in {base} contains {' or '.join(markers)}; {_advice(base, markers, folders)}")
    doubtful = [path for path in folders if path.name not in categories and _resembles(path, markers, dataset_args)]
    if doubtful:
        raise ValueError(
            f"{' and '.join(_found(path) for path in doubtful)}, but no {' or '.join(markers)}; {_rename(markers)}, or "
            "give the categories to train on as a list"
        )
    ignored = [path.name for path in folders if path.name not in categories]
    if ignored:
        logger.warning("ignored folders in %s without %s: %s", base, " or ".join(markers), ", ".join(ignored))
    return categories


def check_names(names: Sequence[str]) -> None:
    """Check that categories can be told apart in metrics, tables and folders.

    Raises:
        ValueError: If there is no name, or one is repeated, reserved, empty or not text, or if tables cannot show it:
            it has a slash, a line break or another control character, or is not UTF-8.
    """
    if not names:
        raise ValueError("there are no categories; give at least one")
    check_names_are_text(names, "categories")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"more than one category is called {', '.join(map(repr, repeated))}; "
            "give every category once, or pass datamodules as a dict with a name for each",
        )
    for name in names:
        # control characters, and the surrogates that Python makes of folder names that are not UTF-8
        unwritable = any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in name)
        if not name or "/" in name or name in _RESERVED or unwritable:
            raise ValueError(f"a category cannot be called {name!r}; rename it")


def create_datamodule(
    category: str,
    root: Path,
    datamodule_class: type[AnomalibDataModule],
    dataset_args: Mapping[str, Any],
    **common: Any,  # noqa: ANN401  # anomalib's datamodule arguments, each of its own type
) -> AnomalibDataModule:
    """Create the datamodule of one category.

    ``MVTecAD`` is read through ``MVTecLayout`` and ``Folder`` through ``FolderLayout``. They read the same folders, but
    list images by the rule of ``listing.py`` and find masks by name.

    ``dataset_args`` win over the ``common`` arguments of anomalib's datamodules; a ``None`` among these keeps the
    default.

    Raises:
        ValueError: If the category neither exists nor belongs to a dataset that anomalib can download, has no folder of
            normal images, or ``dataset_args`` has an argument that the class does not take or that differs by category.
    """
    parameters = inspect.signature(datamodule_class).parameters
    unknown = [key for key in dataset_args if key not in parameters]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ValueError(
            f"dataset {datamodule_class.__name__} does not take {', '.join(unknown)}; remove this from dataset_args"
        )
    if not _OWN_ARGUMENTS.isdisjoint(dataset_args):
        own = ", ".join(sorted(_OWN_ARGUMENTS & dataset_args.keys()))
        raise ValueError(f"dataset_args cannot have {own}, which every category has of its own; remove this")
    _check_folder(category, root, datamodule_class, dataset_args)
    datamodule_class = _LAYOUTS.get(datamodule_class, datamodule_class)
    arguments = {key: value for key, value in common.items() if value is not None} | dict(dataset_args)
    if "category" in parameters:
        return datamodule_class(**{**arguments, "root": root, "category": category})
    folder = root / category
    if issubclass(datamodule_class, Folder):
        arguments.update(_product_folders(folder, dataset_args))
    if "name" in parameters:
        arguments["name"] = category
    return datamodule_class(**{**arguments, "root": folder})


def _product_folders(folder: Path, dataset_args: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """Return those of the folders given to ``Folder`` that this product has."""
    found: dict[str, list[str] | None] = {}
    for key in _OPTIONAL_FOLDERS:
        names = [str(name) for name in as_list(dataset_args.get(key))]
        present = [name for name in names if (folder / name).is_dir()]
        if missing := [name for name in names if name not in present]:
            logger.info("%s has no %s (%s)", folder, ", ".join(missing), key)
        found[key] = present or None
    return found


def _base(root: Path, datamodule_class: type[AnomalibDataModule]) -> Path:
    prepared = root / "visa_pytorch"  # anomalib's Visa converts the downloaded layout into this folder
    return prepared if datamodule_class.__name__ == "Visa" and prepared.is_dir() else root


def _markers(datamodule_class: type[AnomalibDataModule], dataset_args: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the folders that mark a category; none if the class's layout is unknown."""
    if issubclass(datamodule_class, Folder):
        normal = dataset_args.get("normal_dir")
        if not normal:
            raise ValueError("dataset Folder needs normal_dir in dataset_args: each product's folder of normal images")
        return tuple(map(str, as_list(normal)))
    return next((_MARKERS[one.__name__] for one in datamodule_class.__mro__ if one.__name__ in _MARKERS), ())


def _advice(base: Path, markers: Sequence[str], folders: Sequence[Path]) -> str:
    """Say what to do if none of the folders is a category."""
    base = base if base.name else base.absolute()  # "." has no parent
    if _is_category(base, markers):
        return f"it is a category itself: give root={str(base.parent)!r} and categories=[{base.name!r}]"
    if any(_is_category(folder, _MARKERS["MVTecAD"]) for folder in folders):
        return "they have MVTec AD's layout: give dataset='MVTecAD' and no dataset_args"
    doubtful = [folder for folder in folders if _resembles(folder, markers, {})]
    if doubtful:
        return f"{' and '.join(_found(folder) for folder in doubtful)}; {_rename(markers)}"
    if _is_category(base.parent, markers):
        return f"it lies in the category {base.parent.name!r}: give root={str(base.parent.parent)!r}"
    root = next((folder for folder in folders if any(_is_category(one, markers) for one in folder.glob("*/"))), None)
    if root is not None:
        return f"but folders in {root} do: give root={str(root)!r}"
    return "check root, dataset and dataset_args"


def _resembles(folder: Path, markers: Sequence[str], dataset_args: Mapping[str, Any]) -> bool:
    """Tell whether a folder that is not a category looks like one: it has images, and some of a category's folders."""
    parts = {PurePath(marker).parts[0].casefold() for marker in markers}
    parts |= {str(name).casefold() for key in _OPTIONAL_FOLDERS for name in as_list(dataset_args.get(key))}
    parts |= {"test"} if "train" in parts else set()  # in all of these layouts; "train" may be missing or misspelt
    found = any(entry.is_dir() and entry.name.casefold() in parts for entry in folder.iterdir())
    return found and bool(list_images(folder))


def _found(folder: Path) -> str:
    return f"{folder} has {counted_by_folder(list_images(folder), folder)}"


def _rename(markers: Sequence[str]) -> str:
    return f"rename the folder of the normal training images to {' or '.join(markers)}"


def _is_category(folder: Path, markers: Sequence[str]) -> bool:
    return any((folder / marker.format(category=folder.name)).is_dir() for marker in markers)


def _check_folder(
    category: str,
    root: Path,
    datamodule_class: type[AnomalibDataModule],
    dataset_args: Mapping[str, Any],
) -> None:
    """Refuse a misspelt category, for which anomalib would download a whole dataset."""
    base = _base(root, datamodule_class)
    folder = base / category
    markers = _markers(datamodule_class, dataset_args)
    if markers and folder.is_dir() and not _is_category(folder, markers):
        advice = _advice(root, markers, [folder])
        raise ValueError(f"category '{category}' in {root} contains no {' or '.join(markers)}; {advice}")
    if folder.is_dir() or (root / category).is_dir():
        return
    has_others = base.is_dir() and any(_is_category(one, markers) for one in base.iterdir())
    if category in _official_categories(datamodule_class) and not has_others:
        return
    known = ", ".join(discover_categories(root, datamodule_class, dataset_args))
    raise ValueError(f"there is no category '{category}' in {root}; the categories there are {known}")


def _official_categories(datamodule_class: type[AnomalibDataModule]) -> tuple[str, ...]:
    """Return anomalib's list of the dataset's categories, which it can download or explain how to get."""
    for ancestor in datamodule_class.__mro__:
        if ancestor.__module__.startswith("anomalib.data.datamodules.image."):
            dataset_module = import_module(ancestor.__module__.replace(".datamodules.", ".datasets."))
            return tuple(getattr(dataset_module, "CATEGORIES", ()))
    return ()
