# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Per-category metrics and the test report, as a callback of the Trainer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AnomalibMetric
from anomalib.metrics.evaluator import Evaluator
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.console import Console

from anomalib_grad.categories.distributed import all_gather, own_samples
from anomalib_grad.data.ignore_masks import IgnoreMasks, exclude_ignored
from anomalib_grad.evaluation.results import build_report, write_report
from anomalib_grad.report.pictures import file_format_of
from anomalib_grad.report.records import METRIC_NAMES
from anomalib_grad.report.table import results_table

from .collector import Collector
from .coordinates import CoordinateTap
from .metrics import IMAGE_FIELDS, PIXEL_FIELDS, CategoryMetrics, Counts, Predictions, mean_over_categories

MEAN = "mean"
_METRIC_WORDS = re.compile("image|pixel|auroc|aupro|f1", re.IGNORECASE)


class PerCategoryEvaluator(Evaluator):
    """Computes metrics per category and their mean, and writes the test report.

    It logs ``<category>/image_AUROC``, ``<category>/image_F1Max``, ``<category>/pixel_AUROC``,
    ``<category>/pixel_AUPRO`` and the same under ``mean/``. These are anomalib's metrics on the post-processed
    predictions of a category; the mean is over the categories in which they are defined. The main process then prints
    the table and writes ``per_category.csv``, ``per_category.json`` and ``report.html`` to the Trainer's
    ``default_root_dir``.

    It works beside the model's own evaluator, and is idle unless batches name the category of each image, as those of
    :class:`anomalib_grad.data.MultiCategory` do. The package attaches one to every Trainer; one given as a callback or
    as the model's evaluator replaces it.

    Callbacks and learning rate schedules can monitor these names: ``EarlyStopping("mean/image_AUROC")``. Validation
    then computes image metrics, and exact pixel metrics if one of those is monitored. They rank raw scores. Within a
    category, normalised scores have the same order: a test of the same images gives the same values.

    Pixels ignored by the data's masks (``data/ignore_masks.py``) count as normal, with a score of 0.

    Memory: exact pixel metrics keep every pixel, 4 bytes of score and 1 of mask, which AUROC and AUPRO share. 10,000
    images of 224 x 224 take 2.5 GB, and as much again if the model's own evaluator has pixel metrics. Sorting pixels,
    one category at a time, briefly takes about 60 bytes per pixel (measured: 2 GB for 640 images). ``binned=1000``
    takes 24 kB per category, for any number of images. Image metrics are always exact (80 kB).

    Args:
        val_metrics: Further validation metrics, as in anomalib's evaluator.
        test_metrics: Further test metrics over all categories together, as in anomalib's evaluator.
        compute_on_cpu: Keep predictions in main memory; in runs with several processes they stay on the device.
        binned: Number of bins of the pixel metrics, at least 2; ``None`` computes exact metrics.
        report: Print the table and write the files; otherwise metrics are only logged.

    Raises:
        ValueError: At test, if a category is called ``mean``, if a batch lacks scores, or if anomaly maps for binned
            metrics leave [0, 1].

    Example:
        >>> from anomalib.engine import Engine
        >>> engine = Engine(callbacks=[PerCategoryEvaluator(binned=1000)])  # doctest: +SKIP
    """

    def __init__(
        self,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        test_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        compute_on_cpu: bool = True,
        binned: int | None = None,
        report: bool = True,
    ) -> None:
        super().__init__(val_metrics, test_metrics, compute_on_cpu)
        self.binned = binned
        self.report = report
        self._metrics = CategoryMetrics(binned)
        self._monitored: set[str] = set()
        self._collector = Collector()
        self._tap: CoordinateTap | None = None
        self._seen: defaultdict[int, int] = defaultdict(int)
        self._masks = IgnoreMasks()

    @property
    def state_key(self) -> str:
        """Key of the callback's state; unique per instance if there is no state, so that several may be attached."""
        return super().state_key if self.state_dict() else self._generate_state_key(instance=id(self))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Move behind the post-processor in the list of callbacks, or drop out if another such evaluator is first."""
        if self.val_metrics or self.test_metrics:
            super().setup(trainer, pl_module, stage)
        # A new list: Lightning iterates over the old one during this call.
        trainer.callbacks = _behind_post_processor(trainer.callbacks, self)  # type: ignore[attr-defined]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the metrics, and find those that are monitored."""
        self._monitored = set() if trainer.sanity_checking else _monitored(trainer)
        self._start(trainer, pl_module, binned=None)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch to the metrics of its categories, if any are monitored."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._monitored and _names_categories(batch):
            fields = IMAGE_FIELDS + (PIXEL_FIELDS if any(name.startswith("pixel") for name in self._monitored) else ())
            self._update(pl_module, batch, fields, trainer.val_dataloaders, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics, if any are monitored."""
        super().on_validation_epoch_end(trainer, pl_module)
        if self._monitored:
            self._compute(trainer)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the metrics and the collector, and hook into the coordinate networks."""
        self._start(trainer, pl_module, self.binned)
        self._collector = Collector(file_format_of(trainer.test_dataloaders))
        self._release()
        self._tap = CoordinateTap(pl_module) if self.report else None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch to the metrics of its categories, and to the report's data."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        coordinates = self._tap.take() if self._tap else {}
        if _names_categories(batch):
            fields = IMAGE_FIELDS + PIXEL_FIELDS
            batch, keep, ignored = self._update(pl_module, batch, fields, trainer.test_dataloaders, dataloader_idx)
            if self.report:
                self._collector.update(batch, coordinates, keep, ignored)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics; print and write the report."""
        super().on_test_epoch_end(trainer, pl_module)
        self._release()
        counts, values = self._compute(trainer)
        if counts and self.report:
            self._report(trainer, pl_module, counts, values)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks from the model."""
        self._release()

    def _release(self) -> None:
        if self._tap:
            self._tap.close()
            self._tap = None

    def _start(self, trainer: Trainer, pl_module: LightningModule, binned: int | None) -> None:
        on_cpu = self.compute_on_cpu and trainer.world_size == 1
        self._metrics = CategoryMetrics(binned, "cpu" if on_cpu else pl_module.device)
        self._seen.clear()
        self._masks = IgnoreMasks(getattr(trainer, "datamodule", None))

    def _compute(self, trainer: Trainer) -> tuple[dict[str, Counts], dict[str, dict[str, float]]]:
        """Compute and log the metrics of all categories and their mean; empty if no batch named a category."""
        if not any(all_gather(bool(self._metrics.counts))):
            return {}, {}
        counts = self._metrics.gather_counts(getattr(trainer.datamodule, "categories", ()))  # type: ignore[attr-defined]
        values = self._metrics.compute(counts)
        values[MEAN] = mean_over_categories(list(values.values()))
        self._log(trainer, values)
        return counts, values

    def _update(
        self,
        pl_module: LightningModule,
        batch: ImageBatch,
        fields: Sequence[str],
        loaders: Any,  # noqa: ANN401  # whatever Lightning was given
        dataloader_idx: int,
    ) -> tuple[ImageBatch, int, torch.Tensor | None]:
        """Add fields of a batch to the metrics of its categories; the batch itself is unchanged for other callbacks.

        Returns:
            A copy of the batch without ignored pixels, the number of leading images that count, and the ignored pixels.
        """
        if MEAN in batch.category:  # type: ignore[attr-defined]
            raise ValueError("Rename the category 'mean': results under that name are the mean over the categories.")
        if batch.pred_score is None:
            raise ValueError("Per-category metrics need image scores: enable the model's post-processor.")
        ignored = self._masks.pixels(pl_module, batch)
        if ignored is not None:
            batch = batch.update(in_place=False, **exclude_ignored(batch, ignored))
        keep = self._own(loaders, dataloader_idx, len(batch))
        for category, predictions in _split(batch, keep, fields).items():
            self._metrics.update(category, predictions)
        return batch, keep, ignored

    def _own(self, loaders: Any, dataloader_idx: int, size: int) -> int:  # noqa: ANN401  # whatever Lightning was given
        """Count the leading images of a batch without repeats, which samplers add to give processes equal shares."""
        loader = loaders[dataloader_idx] if isinstance(loaders, (list, tuple)) else loaders
        own = own_samples(loader)
        before = self._seen[dataloader_idx]
        self._seen[dataloader_idx] += size
        return size if own is None else max(0, min(size, own - before))

    def _log(self, trainer: Trainer, values: dict[str, dict[str, float]]) -> None:
        for category, metrics in values.items():
            for name in METRIC_NAMES:
                key = f"{category}/{name}"
                self.log(key, metrics[name], sync_dist=True)  # type: ignore[operator]  # equal in all processes
                if trainer.barebones:  # self.log does nothing then; anomalib's evaluator also sets these
                    value = torch.tensor(metrics[name])
                    trainer.callback_metrics[key] = value
                    trainer.logged_metrics[key] = value

    def _report(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        counts: dict[str, Counts],
        values: dict[str, dict[str, float]],
    ) -> None:
        own, *others = all_gather(self._collector)
        self._collector = Collector()
        if not trainer.is_global_zero:
            return
        own.merge(others)
        post_processor = next((c for c in trainer.callbacks if isinstance(c, PostProcessor)), None)  # type: ignore[attr-defined]
        report = build_report(pl_module, counts, values, own, post_processor)
        Console().print(results_table(report))
        write_report(report, Path(trainer.default_root_dir))


def _behind_post_processor(callbacks: list[Callback], evaluator: PerCategoryEvaluator) -> list[Callback]:
    """Put the evaluator behind the post-processor, so that it sees the same predictions as the model's own evaluator.

    If there are several, only the first stays: a user's callbacks come before those that entry points attach.
    """
    if evaluator not in callbacks:
        return callbacks  # another one has replaced it
    others = [c for c in callbacks if not isinstance(c, PerCategoryEvaluator)]
    behind = max((i + 1 for i, c in enumerate(others) if isinstance(c, (PostProcessor, Evaluator))), default=0)
    return [*others[:behind], evaluator, *others[behind:]]


def _monitored(trainer: Trainer) -> set[str]:
    """Return the names of the per-category or mean metrics that callbacks or learning rate schedules monitor.

    An unknown name that looks like a metric also switches metrics on: Lightning then rejects it with a list of all
    logged names.
    """
    asking = [*trainer.callbacks, *trainer.lr_scheduler_configs]  # type: ignore[attr-defined]
    keys = {str(getattr(one, "monitor", None) or "") for one in asking}
    asked = {name for name in METRIC_NAMES if any(key.endswith(f"/{name}") for key in keys)}
    return asked or {METRIC_NAMES[0] for key in keys - trainer.callback_metrics.keys() if _METRIC_WORDS.search(key)}


def _names_categories(batch: Any) -> bool:  # noqa: ANN401
    return isinstance(batch, ImageBatch) and bool(getattr(batch, "category", None)) and batch.gt_label is not None


def _split(batch: Any, keep: int, fields: Sequence[str]) -> dict[str, Predictions]:  # noqa: ANN401
    """Group fields of the first ``keep`` images of a batch by category."""
    members = defaultdict(list)
    for index, category in enumerate(batch.category[:keep]):
        members[category].append(index)

    def pick(values: torch.Tensor | None, indices: list[int]) -> torch.Tensor | None:
        return None if values is None else values.detach().as_subclass(torch.Tensor)[indices]

    return {
        category: Predictions(**{name: pick(getattr(batch, name), indices) for name in fields})  # type: ignore[arg-type]
        for category, indices in members.items()
    }
