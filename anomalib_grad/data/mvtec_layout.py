# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""One product's folder in MVTec AD's layout, with masks found by name.

    <product>/train/good/            normal images to train on
    <product>/test/good/             normal test images
    <product>/test/<defect>/         anomalous test images, one folder per kind of defect
    <product>/ground_truth/<defect>/ the mask of 000.png: 000.png or 000_mask.png; no masks at all is allowed

anomalib's ``MVTecAD`` pairs images and masks in sorted order, which fails for names like 1.png, 10.png with 1_mask.png,
10_mask.png; it reads PNG files only and needs masks. Splits are anomalib's own, in anomalib's order.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataset, MVTecAD
from anomalib.data.utils import LabelName, Split
from torchvision.datasets.folder import IMG_EXTENSIONS

logger = logging.getLogger(__name__)

_NORMAL = "good"


class MVTecLayout(MVTecAD):
    """anomalib's ``MVTecAD`` (arguments, download, splits) for any product in its layout, masks paired by name.

    Raises:
        ValueError: On ``setup``: if an anomalous test image has no mask although others have, or a mask no image.
    """

    skip_missing = False
    """Leave out images that are links to nothing, and list them, rather than stop."""

    def _setup(self, _stage: str | None = None) -> None:
        samples = mvtec_samples(self.root / self.category, skip_missing=self.skip_missing)
        self.train_data = _LayoutDataset(samples, Split.TRAIN)
        self.test_data = _LayoutDataset(samples, Split.TEST)


class _LayoutDataset(AnomalibDataset):
    def __init__(self, samples: pd.DataFrame, split: Split) -> None:
        super().__init__()
        self.samples = samples[samples["split"] == split.value].reset_index(drop=True)


def mvtec_samples(folder: Path, skip_missing: bool = False) -> pd.DataFrame:
    """List the images of a product with their labels and masks.

    Args:
        folder: The product's folder.
        skip_missing: Leave out and list images that are links to nothing, or whose masks are.

    Returns:
        anomalib's samples frame; ``attrs["task"]`` is ``"classification"`` for a product without masks.

    Raises:
        ValueError: If an anomalous test image has no mask although others have, a mask no image, or, without
            ``skip_missing``, a link no file.
    """
    images = [*_images(folder, f"train/{_NORMAL}/*"), *_images(folder, "test/*/*")]
    masks = {(path.parent.name, path.stem): path for path in _images(folder, "ground_truth/*/*")}
    missing = _links_to_nothing([*images, *masks.values()], skip_missing)
    task = TaskType.SEGMENTATION if masks else TaskType.CLASSIFICATION
    rows, unmasked = [], []
    for image in images:
        label = image.parent.name
        mask = None
        if label != _NORMAL:
            mask = masks.pop((label, image.stem), None) or masks.pop((label, f"{image.stem}_mask"), None)
            if mask is None:
                unmasked.append(image)
        if not missing.isdisjoint((image, mask)):
            continue
        rows.append(
            {
                "split": image.parent.parent.name,
                "label": label,
                "image_path": str(image),
                "mask_path": "" if mask is None else str(mask),
                "label_index": int(LabelName.NORMAL if label == _NORMAL else LabelName.ABNORMAL),
            },
        )
    if unmasked and task is TaskType.SEGMENTATION:
        raise ValueError(
            f"{len(unmasked)} anomalous test images have no mask in {folder / 'ground_truth'} (first: {unmasked[0]}); "
            "add the masks, or remove all of them to count the category in image metrics only",
        )
    unused = sorted(set(masks.values()) - missing)
    if unused:
        raise ValueError(f"mask {unused[0]} belongs to no test image; remove it or add its image")
    samples = pd.DataFrame(rows, columns=["split", "label", "image_path", "mask_path", "label_index"])
    samples.attrs["task"] = task.value
    return samples


def _links_to_nothing(files: Sequence[Path], skip: bool) -> set[Path]:
    """Find the files that are not there; list them, or stop at the first."""
    missing = sorted(path for path in files if not path.exists())
    if missing and not skip:
        raise ValueError(f"{missing[0]} is a link to {missing[0].resolve()}, which is not there; mend or remove it")
    if missing:
        listed = "\n".join(f"  {path} -> {path.resolve()}" for path in missing)
        logger.warning("left out, %d links to files that are not there:\n%s", len(missing), listed)
    return set(missing)


def _images(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in sorted(folder.glob(pattern)) if path.suffix.lower() in IMG_EXTENSIONS)
