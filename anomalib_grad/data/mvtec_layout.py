# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""MVTec AD's layout of one product's folder, with masks found by name.

    <product>/train/good/            normal images to train on
    <product>/test/good/             normal test images
    <product>/test/<defect>/         anomalous test images, one folder per kind of defect
    <product>/ground_truth/<defect>/ the mask of 000.png: 000.png or 000_mask.png; optional
    <product>/ignore.png             white where nothing is judged (``ignore_masks.py``); optional

Below ``good`` and ``<defect>`` images may lie in subfolders, such as one per day; a mask lies in the same one. Images
elsewhere are left out and counted in a warning. A folder of ``test`` named ``Good`` or ``ok`` stops the run, as it
would count as a kind of defect.

anomalib's ``MVTecAD`` pairs images and masks in sorted order, which fails for 1.png, 10.png with 1_mask.png,
10_mask.png. It also reads only PNG files in exactly these folders, and needs masks. Splits are anomalib's own, in
anomalib's order.
"""

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, MVTecAD
from anomalib.data.utils import LabelName, Split

from .listing import counted_by_folder, list_images
from .masks import IGNORE_FILE, MASKS, check_no_masks_among, masks_by_name, take_mask
from .read_or_refuse import DEFAULT_FORMAT, read_mask

logger = logging.getLogger(__name__)

Row: TypeAlias = tuple[str, str, str, str, int]
"""Split, label, image path, mask path (or empty) and label index of an image."""
_NORMAL = "good"
_RENAME = f"rename it to {_NORMAL} if its images are normal, else to the name of their defect"
_MEANT_FOR_NORMAL = frozenset({"good", "normal", "ok", "okay"})
"""Usual names, in any case, of folders of normal images; no kind of defect is called so."""


class Layout(AnomalibDataModule):
    """Base of a product's datamodule that lists images and pairs masks by the rules of this package."""

    skip_missing = False
    """Leave out and list broken links to images or masks instead of stopping."""
    file_format = DEFAULT_FORMAT
    """Properties that the files do not state themselves."""

    @abstractmethod
    def listed(self) -> tuple[list[Row], bool]:
        """List the images, in any order, and tell whether the product has masks."""

    def _setup(self, _stage: str | None = None) -> None:
        rows, has_masks = self.listed()
        samples = pd.DataFrame(rows, columns=["split", "label", "image_path", "mask_path", "label_index"])
        samples.attrs["task"] = (TaskType.SEGMENTATION if has_masks else TaskType.CLASSIFICATION).value
        self.train_data, self.test_data = AnomalibDataset(), AnomalibDataset()
        self.train_data.samples = samples[samples["split"] == Split.TRAIN.value]
        self.test_data.samples = samples[samples["split"] == Split.TEST.value]


class MVTecLayout(Layout, MVTecAD):
    """anomalib's ``MVTecAD`` (arguments, download, splits) for any product in its layout, masks paired by name.

    Raises:
        ValueError: On ``setup``: if an anomalous test image has no mask although others have one, a mask has no image,
            a normal image's mask is not empty, masks lie among the images, normal images lie in a folder that counts as
            a defect, or, without ``skip_missing``, a link is broken.
    """

    def listed(self) -> tuple[list[Row], bool]:
        """List the images in the folders of this layout, and tell whether there is any mask."""
        folder = self.root / self.category
        images, mask_files = _images_and_masks(folder)
        tested = folder / Split.TEST.value
        anomalous = [one for one in images if one.relative_to(folder).parts[1] != _NORMAL]
        check_defects(anomalous, tested, _RENAME)
        masks = masks_by_name(mask_files, folder / MASKS)
        missing = find_broken_links([*images, *mask_files], self.skip_missing)
        rows, unmasked, of_normal = [], [], []
        for image in images:
            split, label = image.relative_to(folder).parts[:2]
            mask = take_mask(masks, image.relative_to(folder / split)) if split == Split.TEST.value else None
            if label == _NORMAL and mask is not None:
                of_normal.append((image, mask))
                mask = None
            elif label != _NORMAL and mask is None:
                unmasked.append(image)
            if missing.isdisjoint((image, mask)):
                index = int(LabelName.NORMAL if label == _NORMAL else LabelName.ABNORMAL)
                rows.append((split, label, str(image), "" if mask is None else str(mask), index))
        if unmasked and mask_files:
            raise ValueError(
                f"{len(unmasked)} anomalous test images have no mask in {folder / MASKS} (first: "
                f"{unmasked[0]}); add the masks, or remove all masks to evaluate the category by image metrics only",
            )
        unused = sorted(set(masks.values()) - missing)
        if unused:
            raise ValueError(f"mask {unused[0]} belongs to no test image; remove it or add its image")
        for image, mask in of_normal:  # some tools write empty ones
            if missing.isdisjoint((image, mask)) and read_mask(mask, self.file_format).any():
                raise ValueError(
                    f"{image} lies among the normal images, but its mask {mask} marks pixels; move the image or the "
                    "mask"
                )
        return rows, bool(mask_files)


def _images_and_masks(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the images and masks in the layout's folders; count all others in a warning."""
    images: list[Path] = []
    masks: list[Path] = []
    others: list[Path] = []
    for path in list_images(folder) if folder.is_dir() else []:
        match path.relative_to(folder).parts:
            case ("train", label, _, *_) if label == _NORMAL:
                images.append(path)
            case ("test", _, _, *_):
                images.append(path)
            case (name, *_) if name == MASKS:
                masks.append(path)
            case (name,) if name == IGNORE_FILE:
                pass
            case _:
                others.append(path)
    if others:
        logger.warning(
            "left out of %s, as they are neither in train/%s nor in a subfolder of test: %s; move those you need",
            folder,
            _NORMAL,
            counted_by_folder(others, folder),
        )
    check_no_masks_among(images)
    return images, masks


def check_defects(anomalous: Iterable[Path], folder: Path, advice: str) -> None:
    """Check that no subfolder with some of the anomalous images in a folder has a usual name of normal ones.

    Raises:
        ValueError: Names the first, and how many images it holds.
    """
    places = (image.relative_to(folder).parts[:-1] for image in anomalous)
    kinds = Counter(place[0] for place in places if place)
    meant = next((kind for kind in kinds if kind.strip().casefold() in _MEANT_FOR_NORMAL), None)
    if meant is not None:
        raise ValueError(f"{folder / meant} ({kinds[meant]} images) would count as a kind of defect; {advice}")


def find_broken_links(files: Sequence[Path], skip: bool) -> set[Path]:
    """Find missing files, and list them in a warning.

    Raises:
        ValueError: Without ``skip``: names the first.
    """
    missing = sorted(path for path in files if not path.exists())
    if missing and not skip:
        raise ValueError(f"{missing[0]} is a link to {missing[0].resolve()}, which does not exist; repair or remove it")
    if missing:
        listed = "\n".join(f"  {path} -> {path.resolve()}" for path in missing)
        logger.warning("left out %d links to files that do not exist:\n%s", len(missing), listed)
    return set(missing)
