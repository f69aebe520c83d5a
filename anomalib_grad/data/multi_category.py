# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Datamodule over many categories, to train one model for all of them."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.base import AnomalibDepthDataset, AnomalibVideoDataset
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch.utils.data import DataLoader, SequentialSampler
from torchvision.transforms.v2 import Transform

from anomalib_grad.files.refusals import explain_permission_errors, sentence_of

from .anomalib_data import TAKE_IMAGES, leave_out_hidden
from .dataset import MultiCategoryDataset
from .discovery import check_names, create_datamodule, discover_categories, resolve_datamodule_class
from .ignore_masks import folder_of, given_masks, kept_pixels, mask_in
from .masks import check_masks
from .mvtec_layout import Layout
from .read_or_refuse import DEFAULT_FORMAT, FileFormat
from .sampling import BalancedSampler, EvaluationBatchSampler
from .unreadable import leave_out_unreadable

logger = logging.getLogger(__name__)

_SUBSETS = ("train_data", "val_data", "test_data")
_AUGMENTATIONS = ("train_augmentations", "val_augmentations", "test_augmentations")


class MultiCategory(AnomalibDataModule):
    """Join several categories; every batch is a ``CategoryImageBatch`` with the category of each image.

    Give either ``root``, ``categories`` and ``dataset``, or ``datamodules``. Each category is split into train,
    validation and test by its own datamodule, exactly as it would be alone with the same ``seed``.

    A category without test images is tested on normal images drawn from its training images (``test_split_ratio``);
    with ``test_split_mode="none"`` it is trained and not tested. A category without masks counts only in image metrics.
    Evaluation batches never mix images with and without masks, and distributed runs evaluate no image twice.

    The table in ``listing.py`` says which files of a folder are images, that in ``pixels.py`` which kinds of images and
    masks can be read, and how.

    Args:
        root: Folder with one folder per category.
        categories: Names of folders in ``root``, or ``"all"`` for every folder that is a category of ``dataset`` (for
            ``MVTecAD``: has ``train/good``). Other folders are ignored with a message, but one that looks like a
            category and cannot be read stops the run.
        dataset: Datamodule class of one category: its name in ``anomalib.data`` or its class path. ``MVTecAD`` reads
            any product in MVTec AD's layout (see ``mvtec_layout.py``), ``Folder`` any other folder per product.
        dataset_args: Further arguments of ``dataset``. ``Folder`` needs ``normal_dir`` and takes ``abnormal_dir``,
            ``normal_test_dir`` and ``mask_dir``, all relative to the product's folder. A product may lack the latter
            three.
        datamodules: Datamodules to join, of any classes. Their names are their ``category``, or ``name`` if that is
            empty; a dict names them explicitly. Batch sizes and workers are those given here; augmentations given here
            replace theirs. ``root``, ``categories``, ``dataset`` and ``dataset_args`` do not apply.
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation, test and prediction batch.
        num_workers: Processes that read images, started whenever images are read: in each epoch if features are not
            cached. On Windows and macOS each process imports anomalib first, which takes some ten seconds; 0 starts
            none.
        balanced: Draw training images with replacement, so that all categories come equally often on average. An epoch
            has as many draws as there are images. The draws depend on ``seed`` and the epoch.
        train_augmentations: For training images.
        val_augmentations: For validation images.
        test_augmentations: For test images.
        augmentations: For subsets without their own.
        test_split_mode: Where normal test images come from; ``None``: the default of ``dataset``.
        test_split_ratio: Share of training images to test on if there are no normal test images.
        val_split_mode: Where validation images come from; ``None``: the default of ``dataset``.
        val_split_ratio: Share of images to validate on.
        seed: For the splits of every category and for balanced sampling. With ``None`` every process, and every run of
            train and test, draws its own splits.
        skip_unreadable: On setup, decode every image and mask once, leave out unreadable ones, and list them in a
            warning; the splits of all others stay. With ``MVTecAD`` and ``Folder`` broken links are left out before the
            splits are drawn. ``False`` stops at the first unreadable file and names it.
        bits: Bits that 16-bit files use, 10 to 16: 12 for those of a camera that counts to 4095.
        max_pixels: Pixels of the largest file to read, as from a line-scan camera. ``None`` keeps Pillow's limit of 178
            million, its guard against files that claim more than they hold. Datasets with their own readers ignore
            ``bits`` and ``max_pixels``.
        ignore: Ignore mask, white where nothing is judged, for all products, or masks by product name. It wins over
            ``ignore.png`` in a product's folder (see ``ignore_masks.py``).

    Raises:
        FileNotFoundError: If ``root`` is not a folder. This and the following errors are raised when the categories are
            first needed: by ``categories``, ``name``, ``prepare_data`` or ``setup``, which the engine calls first.
        PermissionError: If ``root`` or a product's folder may not be read.
        ValueError: If a category is missing or named twice, or ``dataset`` or ``dataset_args`` do not fit. On
            ``setup``, if a category has no training or test image, masks that do not match its images, or an ignore
            mask that is all white. Immediately, if a number or a split mode is out of range.

    Example:
        >>> datamodule = MultiCategory(root="datasets/MVTecAD", categories=["bottle", "cable"])
        >>> datamodule.categories
        ['bottle', 'cable']
    """

    train_data: MultiCategoryDataset
    val_data: MultiCategoryDataset
    test_data: MultiCategoryDataset

    def __init__(
        self,
        root: str | Path = "./datasets/MVTecAD",
        categories: list[str] | str = "all",
        dataset: str = "MVTecAD",
        dataset_args: dict[str, Any] | None = None,
        datamodules: list[AnomalibDataModule] | dict[str, AnomalibDataModule] | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        balanced: bool = False,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str | None = None,
        test_split_ratio: float | None = None,
        val_split_mode: ValSplitMode | str | None = None,
        val_split_ratio: float | None = None,
        seed: int | None = 0,
        skip_unreadable: bool = False,
        ignore: dict[str, str | Path] | str | Path | None = None,
        *,
        bits: int = DEFAULT_FORMAT.bits,
        max_pixels: int | None = None,
    ) -> None:
        for name, mode, modes in (("test", test_split_mode, TestSplitMode), ("val", val_split_mode, ValSplitMode)):
            if mode is not None and mode not in list(modes):
                raise ValueError(f"{name}_split_mode cannot be {mode!r}; choose one of {', '.join(modes)}.")
        sizes = (("train_batch_size", train_batch_size, 1), ("eval_batch_size", eval_batch_size, 1))
        for name, number, least in (*sizes, ("num_workers", num_workers, 0)):
            if number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}.")
        for name, share in (("test_split_ratio", test_split_ratio), ("val_split_ratio", val_split_ratio)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {share}.")
        self._splits: dict[str, Any] = {
            "test_split_mode": test_split_mode,
            "test_split_ratio": test_split_ratio,
            "val_split_mode": val_split_mode,
            "val_split_ratio": val_split_ratio,
        }
        augment = (train_augmentations, val_augmentations, test_augmentations, augmentations)
        super().__init__(train_batch_size, eval_batch_size, num_workers, *augment, seed=seed, **self._splits)
        self.balanced = balanced
        self.skip_unreadable = skip_unreadable
        self._file_format = FileFormat(bits, max_pixels)
        self.ignore = ignore
        self.root = Path(root)
        self._sought = (categories, dataset, dataset_args or {})
        self._given = datamodules

    @cached_property
    def datamodules(self) -> dict[str, AnomalibDataModule]:
        """Datamodule of each category by name, sorted; created when first needed.

        If the constructor created them, the command line would hide their errors in one of its own.
        """
        with explain_permission_errors():
            found = self._created(*self._sought) if self._given is None else self._named(self._given)
        return dict(sorted(found.items()))

    def _named(
        self, datamodules: list[AnomalibDataModule] | dict[str, AnomalibDataModule]
    ) -> dict[str, AnomalibDataModule]:
        given = datamodules.values() if isinstance(datamodules, Mapping) else datamodules
        if not isinstance(given, Iterable) or not all(isinstance(one, AnomalibDataModule) for one in given):
            raise ValueError(f"datamodules must be a list or a dict of anomalib's datamodules, got {datamodules!r}.")
        if not isinstance(datamodules, Mapping):
            names = [datamodule.category or datamodule.name for datamodule in datamodules]
            check_names(names)
            datamodules = dict(zip(names, datamodules, strict=True))
        check_names(list(datamodules))
        for datamodule in datamodules.values():
            for key in _AUGMENTATIONS:
                setattr(datamodule, key, getattr(self, key) or getattr(datamodule, key))
        return datamodules

    def _created(
        self, categories: list[str] | str, dataset: str, dataset_args: dict[str, Any]
    ) -> dict[str, AnomalibDataModule]:
        datamodule_class = resolve_datamodule_class(dataset)
        if not isinstance(categories, Sequence):
            message = f"categories must be 'all' or a list of folder names, got {categories!r}."
            raise ValueError(message)  # noqa: TRY004  # the error of all arguments out of range
        if categories == "all":
            names = discover_categories(self.root, datamodule_class, dataset_args)
        else:
            names = [categories] if isinstance(categories, str) else list(categories)
        check_names(names)
        common = {key: getattr(self, key) for key in ("seed", *_AUGMENTATIONS)} | self._splits
        return {name: create_datamodule(name, self.root, datamodule_class, dataset_args, **common) for name in names}

    @cached_property
    def name(self) -> str:  # type: ignore[override]  # as anomalib's own
        """Name of the deepest folder that holds all categories; names the results folder.

        anomalib names result images by their path below the folder called like the datamodule. With this name, equal
        file names of different categories stay apart.
        """
        roots: list[Any] = [getattr(datamodule, "root", None) for datamodule in self.datamodules.values()]
        if None in roots:
            return type(self).__name__
        folder = Path(os.path.commonpath([os.path.abspath(root) for root in roots]))  # noqa: PTH100  # follows no link
        alone = len(roots) == 1 and folder.name == next(iter(self.datamodules))
        return (folder.parent.name if alone else folder.name) or type(self).__name__

    @property
    def categories(self) -> list[str]:
        """Sorted names of the categories."""
        return list(self.datamodules)

    @cached_property
    def ignore_masks(self) -> dict[str, Path]:
        """Ignore mask of each category that has one.

        Raises:
            ValueError: If a mask is given for an unknown category, or lies in ``root`` itself, beside the products.
        """
        folders = {name: folder_of(datamodule) for name, datamodule in self.datamodules.items()}
        masks = given_masks(self.ignore, folders)
        misplaced = mask_in(self.root)
        if misplaced is not None and any(folder and folder.parent == self.root for folder in folders.values()):
            raise ValueError(
                f"{misplaced} lies beside the products' folders; move it into one of them, or give its path as ignore"
            )
        return masks

    def prepare_data(self) -> None:
        """Let every category's datamodule download or convert what it needs."""
        for datamodule in self.datamodules.values():
            datamodule.prepare_data()

    def _setup(self, _stage: str | None = None) -> None:
        first = next(iter(self.datamodules.values()))
        self.test_split_mode = TestSplitMode(self._splits["test_split_mode"] or first.test_split_mode)
        self.val_split_mode = ValSplitMode(self._splits["val_split_mode"] or first.val_split_mode)
        parts: dict[str, dict[str, Any]] = {subset: {} for subset in _SUBSETS}
        for name, datamodule in self.datamodules.items():
            datamodule.trainer = self.trainer
            if isinstance(datamodule, Layout):
                datamodule.skip_missing, datamodule.file_format = self.skip_unreadable, self._file_format
            try:
                with explain_permission_errors():
                    datamodule.setup(_stage)
            except (ValueError, RuntimeError, OSError, MisMatchError) as error:
                raise ValueError(f"category '{name}': {sentence_of(error) or error}") from error
            for subset in _SUBSETS:
                if hasattr(datamodule, subset):
                    parts[subset][name] = getattr(datamodule, subset)
                    leave_out_hidden(parts[subset][name])
        if self.skip_unreadable:
            all_parts = [dataset for datasets in parts.values() for dataset in datasets.values()]
            leave_out_unreadable(all_parts, self._file_format)
        for subset, datasets in parts.items():
            if datasets:
                setattr(self, subset, self._join(subset.removesuffix("_data"), datasets))
        self._check_masks()
        self._warn_of_equal_output_names()

    def _check_masks(self) -> None:
        """Refuse defect masks and ignore masks that do not fit their images."""
        evaluated = [getattr(self, subset).samples for subset in _SUBSETS[1:] if hasattr(self, subset)]
        check_masks(pd.concat(evaluated).drop_duplicates("image_path"), self._file_format)
        for mask in self.ignore_masks.values():
            kept_pixels(mask)

    def _join(self, subset: str, datasets: dict[str, Any]) -> MultiCategoryDataset:
        for name, datamodule in self.datamodules.items():
            folder = folder_of(datamodule) or self.root
            if len(datasets.get(name, ())) > 0:
                if isinstance(datasets[name], (AnomalibDepthDataset, AnomalibVideoDataset)):
                    raise TypeError(f"category '{name}' is not an image dataset; join image datasets only")
                if subset == "test" and not datasets[name].has_anomalous:
                    logger.warning("category '%s' has no anomalous test image, so it has no AUROC", name)
            elif subset == "val":
                logger.warning("category '%s' has no validation image, so it gets no threshold of its own", name)
            elif subset == "test" and self.test_split_mode is TestSplitMode.NONE:
                logger.warning(
                    "category '%s' has no test image and test_split_mode is 'none', so it is not tested", name
                )
            else:
                without = ", or set test_split_mode='none' to train without testing it" if subset == "test" else ""
                raise ValueError(
                    f"category '{name}' has no {subset} image in {folder}; add images, or remove the category{without}"
                )
        return MultiCategoryDataset(datasets, self._file_format)

    def _warn_of_equal_output_names(self) -> None:
        if not any(type(callback) is ImageVisualizer for callback in getattr(self.trainer, "callbacks", ())):
            return
        paths = self.test_data.samples["image_path"]
        outputs = Counter(generate_output_filename(path, "", self.name, self.category, mkdir=False) for path in paths)
        repeated = [str(output) for output, count in outputs.items() if count > 1]
        if repeated:
            logger.warning(
                "%d result images will overwrite one another (first: %s); put the categories below one folder, or give "
                "the model visualizer=anomalib_grad.report.DistinctImageVisualizer()",
                len(repeated),
                repeated[0],
            )

    def _create_test_split(self) -> None:
        """Do nothing: every category has been split by its own datamodule."""

    _create_val_split = _create_test_split

    def _update_augmentations(self) -> None:
        """Pass the augmentations and the model's resize on to every category's datasets."""
        for datamodule in self.datamodules.values():
            datamodule.trainer = self.trainer
            datamodule._update_augmentations()  # the same step, of the same base class

    def train_dataloader(self) -> DataLoader:
        """Return training batches, shuffled or drawn evenly over the categories."""
        if not self.balanced:
            return super().train_dataloader()
        return DataLoader(
            dataset=self.train_data,
            sampler=BalancedSampler(list(self.train_data.samples["category"]), self.seed),
            batch_size=self.train_batch_size,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Return validation batches; none if no category has validation images, which training does not need."""
        if hasattr(self, "val_data"):
            return self._evaluation_dataloader(self.val_data)
        if self.trainer is not None and self.trainer.state.fn == "validate":
            logger.warning("there are no validation images: %s", TAKE_IMAGES)
        return []

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Return test batches; none if no category has test images."""
        return self._evaluation_dataloader(self.test_data) if len(self.test_data) else []

    def _evaluation_dataloader(self, dataset: MultiCategoryDataset) -> DataLoader:
        return DataLoader(
            dataset=dataset,
            batch_sampler=EvaluationBatchSampler(SequentialSampler(dataset), self.eval_batch_size, drop_last=False),
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or dataset.collate_fn,
        )
