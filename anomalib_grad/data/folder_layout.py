# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Layout with freely named folders of one product's normal images, anomalous images and masks.

anomalib's ``Folder`` takes hidden files for images and pairs masks only by sorted order. Here a mask belongs to the
image of the same name, with or without ``_mask``, at the same place. If the names do not match, masks are paired in
sorted order, as in anomalib.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from anomalib.data import Folder
from anomalib.data.utils import LabelName, Split

from .listing import IMAGE_SUFFIXES, list_images
from .masks import IGNORE_FILE, check_no_masks_among, masks_by_name, take_mask
from .mvtec_layout import Layout, Row, check_defects, find_broken_links

Folders = str | Path | Sequence[str | Path] | None


class FolderLayout(Layout, Folder):
    """anomalib's ``Folder`` (arguments, splits), with folders read by the rule of ``listing.py``.

    Raises:
        ValueError: On ``setup``: if a folder does not exist or has no image, if an image lies in two of them, if normal
            images lie among the anomalous ones, if masks and anomalous images do not match, or if masks lie among the
            images.
    """

    def listed(self) -> tuple[list[Row], bool]:
        """List the images in the given folders, and tell whether there are masks."""
        normal, normal_test = self._images(self.normal_dir), self._images(self.normal_test_dir)
        anomalous = self._images(self.abnormal_dir)
        counted = Counter([*normal, *normal_test, *anomalous])
        repeated = sorted(path for path, count in counted.items() if count > 1)
        if repeated:
            raise ValueError(
                f"{repeated[0]} lies in two of the folders in dataset_args; give folders that do not overlap"
            )
        for folder in self._folders(self.abnormal_dir):
            own = [image for image in anomalous if folder in image.parents]
            check_defects(own, folder, "give the folders of defects one by one as abnormal_dir")
        masks = self._masks(anomalous) if self.mask_dir and anomalous else {}
        check_no_masks_among([*normal, *normal_test, *anomalous])
        missing = find_broken_links([*normal, *normal_test, *anomalous, *masks.values()], self.skip_missing)
        roles = (
            (Split.TRAIN, "normal", LabelName.NORMAL, normal),
            (Split.TEST, "normal_test", LabelName.NORMAL, normal_test),
            (Split.TEST, "abnormal", LabelName.ABNORMAL, anomalous),
        )
        rows = [
            (split.value, label, str(image), str(masks.get(image, "")), int(index))
            for split, label, index, images in roles
            for image in images
            if missing.isdisjoint((image, masks.get(image)))
        ]
        return rows, bool(masks)

    def _folders(self, named: Folders) -> list[Path]:
        return [Path(self.root or ".") / folder for folder in as_list(named)]

    def _images(self, named: Folders) -> list[Path]:
        """List the images of the given folders, each of which must have at least one."""
        suffixes = {suffix.lower() for suffix in self.extensions or IMAGE_SUFFIXES}
        ignore_mask = Path(self.root or ".") / IGNORE_FILE
        found: list[Path] = []
        for folder in self._folders(named):
            if not folder.is_dir():
                raise ValueError(f"there is no folder {folder}; check dataset_args")
            images = [path for path in list_images(folder) if path.suffix.lower() in suffixes and path != ignore_mask]
            if not images:
                raise ValueError(f"there is no image in {folder}; add images, or remove the folder from dataset_args")
            found += images
        return found

    def _masks(self, images: list[Path]) -> dict[Path, Path]:
        """Find the mask of each anomalous image: by name, else in sorted order."""
        mask_folders, image_folders = self._folders(self.mask_dir), self._folders(self.abnormal_dir)
        files = sorted(path for folder in mask_folders for path in list_images(folder))
        by_name = [masks_by_name((path for path in files if folder in path.parents), folder) for folder in mask_folders]
        if len(mask_folders) != len(image_folders):  # folders of masks and images do not pair, so names must
            by_name = [{key: mask for masks in by_name for key, mask in masks.items()}] * len(image_folders)
        named = {
            image: mask
            for folder, masks in zip(image_folders, by_name, strict=True)
            for image in images
            if folder in image.parents and (mask := take_mask(masks, image.relative_to(folder))) is not None
        }
        if len(named) == len(images) == len(files):
            return named
        in_order = dict(zip(sorted(images), files, strict=False))
        if len(images) == len(files) and all(image.stem in mask.stem for image, mask in in_order.items()):
            return in_order
        said = []
        if unmasked := [image for image in images if image not in named]:
            said.append(f"{len(unmasked)} of {len(images)} anomalous images have no mask (first: {unmasked[0]})")
        if unused := [mask for mask in files if mask not in named.values()]:
            said.append(f"{len(unused)} masks belong to no anomalous image (first: {unused[0]})")
        raise ValueError(
            f"{', '.join(said)}; give each mask the name of its image, with or without _mask, or remove mask_dir to "
            "use no masks"
        )


def as_list(named: Folders) -> list[str | Path]:
    """Return the given folders as a list, empty if none is given."""
    return [named] if isinstance(named, str | Path) else list(named or ())
