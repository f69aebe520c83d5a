# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Datamodule of generated textures for a quick start: several categories, nothing to download."""

from pathlib import Path
from typing import Any

from anomalib.data.utils import TestSplitMode, ValSplitMode
from torchvision.transforms.v2 import Transform

from anomalib_grad.data.discovery import check_names
from anomalib_grad.data.multi_category import MultiCategory
from anomalib_grad.data.mvtec_layout import MVTecLayout

from .files import TexturesSpec, ensure_written
from .sources import CATEGORIES


class Textures(MultiCategory):
    """Brick, grass, gravel and a perforated plate with defects: a small dataset of several categories.

    The first three are crops of scikit-image's bundled CC0 photographs, with training and test crops from disjoint
    parts; the plate is rendered. Defects (foreign matter, holes, missing elements, scratches, stains) come with exact
    masks. All images are written once to ``root`` in MVTec AD's layout (about 8 MB with the defaults) and reused.

    Args:
        root: Folder for the images; must not exist, or be empty or written by this class with the same settings.
        categories: Which of ``brick``, ``grass``, ``gravel``, ``plate`` to use, or ``"all"``.
        image_size: Height and width of the images in pixels, 32 to 192.
        n_train: Normal training images per category.
        n_test_good: Normal test images per category.
        n_defect: Test images per category of each of the five kinds of defect.
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation, test and prediction batch.
        num_workers: Processes that read images.
        balanced: See ``MultiCategory``.
        train_augmentations: For training images.
        val_augmentations: For validation images.
        test_augmentations: For test images.
        augmentations: For subsets without their own.
        test_split_mode: Where normal test images come from; by default from the folders.
        test_split_ratio: Share of training images to test on, if ``test_split_mode`` draws them.
        val_split_mode: Where validation images come from; by default they are the test images.
        val_split_ratio: Share of images to validate on.
        seed: Seed of the generated images and of the splits.

    Raises:
        ValueError: If a category or number is unknown or out of range; if ``root`` holds other data when the images are
            to be written.

    Example:
        >>> datamodule = Textures()
        >>> datamodule.categories
        ['brick', 'grass', 'gravel', 'plate']
    """

    def __init__(
        self,
        root: str | Path = "./datasets/GradTextures",
        categories: list[str] | str = "all",
        image_size: int = 128,
        n_train: int = 40,
        n_test_good: int = 15,
        n_defect: int = 5,
        train_batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        balanced: bool = False,  # a datamodule's arguments are named in configs
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.spec = TexturesSpec(image_size, n_train, n_test_good, n_defect, seed)
        common: dict[str, Any] = {
            "root": root,
            "train_batch_size": train_batch_size,
            "eval_batch_size": eval_batch_size,
            "num_workers": num_workers,
            "test_split_mode": test_split_mode,
            "test_split_ratio": test_split_ratio,
            "val_split_mode": val_split_mode,
            "val_split_ratio": val_split_ratio,
            "seed": seed,
        }
        super().__init__(
            datamodules={name: MVTecLayout(category=name, **common) for name in _chosen(categories)},
            balanced=balanced,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            **common,
        )

    def prepare_data(self) -> None:
        """Write the images unless they exist: those of all categories, whichever are used."""
        ensure_written(self.root, self.spec)

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()  # for use without a Trainer
        super()._setup(_stage)


def _chosen(categories: list[str] | str) -> list[str]:
    if categories == "all":
        return list(CATEGORIES)
    names = [categories] if isinstance(categories, str) else list(categories)
    check_names(names)
    unknown = [name for name in names if name not in CATEGORIES]
    if unknown:
        raise ValueError(f"there is no category {unknown[0]!r}; choose among {', '.join(CATEGORIES)}, or 'all'.")
    return names
