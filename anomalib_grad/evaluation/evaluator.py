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
from .metrics import (
    IMAGE_FIELDS,
    PIXEL_FIELDS,
    CategoryMetrics,
    Counts,
    Predictions,
    mean_over_categories,
)

MEAN = "mean"
_FIGURE = re.compile("image|pixel|auroc|aupro|f1", re.IGNORECASE)


class PerCategoryEvaluator(Evaluator):
    """Metrics for each category of a test, their mean, and the report; in validation those that training selects by.

    Logs ``<category>/image_AUROC``, ``<category>/image_F1Max``, ``<category>/pixel_AUROC``, ``<category>/pixel_AUPRO``
    and the same under ``mean/``: anomalib's metrics on the post-processed predictions of that category, averaged over
    the categories in which they are defined. The main process then prints the table and writes ``per_category.csv``,
    ``per_category.json`` and ``report.html`` to the Trainer's ``default_root_dir``.

    It works beside the model's own evaluator and idles unless test batches name the category of each image, as those
    of :class:`anomalib_grad.data.MultiCategory` do. The package attaches one to every Trainer; one given as a callback
    or as the model's evaluator takes its place.

    Where a callback or a learning rate schedule monitors one of these names (``EarlyStopping("mean/image_AUROC")``),
    validation computes them as well, for the validation images: image metrics, and pixel metrics, exact ones, if one of
    them is monitored. They rank raw scores, whose order within a category is that of the normalised ones of a test: the
    same images give the same figures.

    What the data's masks ignore (``data/ignore_masks.py``) counts as normal, with a score of 0.

    Memory: anomalib's exact pixel metrics keep every pixel, 4 bytes of score and 1 of mask. AUROC and AUPRO share
    them: 10,000 images of 224 x 224 cost 2.5 GB here, besides what the model's own evaluator keeps (for one with pixel
    metrics as much again), and sorting the pixels of one category after the other costs about 60 bytes a pixel for a
    moment (measured: 2 GB for 640 images). ``binned=1000`` costs 24 kB a category, however many images. Image scores
    are always exact (80 kB).

    Args:
        val_metrics: Further validation metrics, as in anomalib's evaluator.
        test_metrics: Further test metrics over all categories together, as in anomalib's evaluator.
        compute_on_cpu: Keep predictions in main memory; they stay on the device in runs with several processes.
        binned: Number of bins of the pixel metrics, at least 2; ``None`` is exact.
        report: Print the table and write the files; if not, metrics are only logged.

    Raises:
        ValueError: At test, if a category is called ``mean``, if a batch lacks scores, or if binned metrics meet
            anomaly maps outside of [0, 1].

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
        """Key of the callback's state; its own for each instance without state, so that several may be given."""
        return super().state_key if self.state_dict() else self._generate_state_key(instance=id(self))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place behind the post-processor, or leave it to the first evaluator of this kind."""
        if self.val_metrics or self.test_metrics:
            super().setup(trainer, pl_module, stage)
        # Rebound, not changed: Lightning iterates over the list while it calls this.
        trainer.callbacks = _place(trainer.callbacks, self)  # type: ignore[attr-defined]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew, if somebody selects by metrics of categories."""
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
        """Add a batch to the metrics of the categories in it, if they are asked for."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._monitored and _names_categories(batch):
            fields = IMAGE_FIELDS + (PIXEL_FIELDS if any(name.startswith("pixel") for name in self._monitored) else ())
            self._update(pl_module, batch, fields, trainer.val_dataloaders, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics that are asked for."""
        super().on_validation_epoch_end(trainer, pl_module)
        if self._monitored:
            self._compute(trainer)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
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
        """Add a batch to the metrics of the categories in it."""
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
        """Take the hooks off the model."""
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
        """Compute and log the metrics of all categories and their mean; nothing where no batch named any."""
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
        """Add fields of a batch to the metrics of the categories in it; other callbacks see all of the batch.

        Returns:
            The batch without what is ignored in it, the number of its leading images that count, the pixels ignored.
        """
        _check(batch)
        ignored = self._masks.pixels(pl_module, batch)
        if ignored is not None:
            batch = batch.update(in_place=False, **exclude_ignored(batch, ignored))
        keep = self._own(loaders, dataloader_idx, len(batch))
        for category, predictions in _split(batch, keep, fields).items():
            self._metrics.update(category, predictions)
        return batch, keep, ignored

    def _own(self, loaders: Any, dataloader_idx: int, size: int) -> int:  # noqa: ANN401  # whatever Lightning was given
        """Count the leading images of a batch that the sampler has not repeated for the sake of equal batches."""
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
                if trainer.barebones:  # logs nothing; anomalib's evaluator does the same
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
        report = build_report(type(pl_module).__name__, counts, values, own, post_processor)
        Console().print(results_table(report))
        write_report(report, Path(trainer.default_root_dir), pl_module)


def _place(callbacks: list[Callback], evaluator: PerCategoryEvaluator) -> list[Callback]:
    """Put the evaluator behind the post-processor, so that it sees the same predictions as the model's own.

    Of several evaluators the first stays: a user's own callbacks stand before those that entry points attach.
    """
    if evaluator not in callbacks:
        return callbacks  # another one has stayed
    others = [c for c in callbacks if not isinstance(c, PerCategoryEvaluator)]
    behind = max((i + 1 for i, c in enumerate(others) if isinstance(c, (PostProcessor, Evaluator))), default=0)
    return [*others[:behind], evaluator, *others[behind:]]


def _monitored(trainer: Trainer) -> set[str]:
    """Find the metrics of categories, or of their mean, that callbacks or learning rate schedules select by.

    A name of nothing that speaks of a figure counts as well: Lightning refuses it, and lists all that was logged.
    """
    asking = [*trainer.callbacks, *trainer.lr_scheduler_configs]  # type: ignore[attr-defined]
    keys = {str(getattr(one, "monitor", None) or "") for one in asking}
    asked = {name for name in METRIC_NAMES if any(key.endswith(f"/{name}") for key in keys)}
    return asked or {METRIC_NAMES[0] for key in keys - trainer.callback_metrics.keys() if _FIGURE.search(key)}


def _names_categories(batch: Any) -> bool:  # noqa: ANN401
    return isinstance(batch, ImageBatch) and bool(getattr(batch, "category", None)) and batch.gt_label is not None


def _check(batch: Any) -> None:  # noqa: ANN401
    if MEAN in batch.category:
        raise ValueError("Rename the category 'mean': results under that name are the mean over the categories.")
    if batch.pred_score is None:
        raise ValueError("Per-category metrics need image scores: enable the model's post-processor.")


def _split(batch: Any, keep: int, fields: Sequence[str]) -> dict[str, Predictions]:  # noqa: ANN401
    """Sort fields of the first images of a batch by category."""
    members = defaultdict(list)
    for index, category in enumerate(batch.category[:keep]):
        members[category].append(index)

    def pick(values: torch.Tensor | None, indices: list[int]) -> torch.Tensor | None:
        return None if values is None else values.detach().as_subclass(torch.Tensor)[indices]

    return {
        category: Predictions(**{name: pick(getattr(batch, name), indices) for name in fields})  # type: ignore[arg-type]
        for category, indices in members.items()
    }
