# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds and score ranges of each category, which a post-processor fits on validation scores."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, Batch
from anomalib.data.utils import ValSplitMode
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from anomalib_grad.categories.distributed import own_samples
from anomalib_grad.categories.recogniser import CategoryRecogniser
from anomalib_grad.data.anomalib_data import TAKE_IMAGES
from anomalib_grad.data.unreadable import datasets_of

from .rules import check_rate
from .threshold_record import VALIDATION, ThresholdRecord
from .validation_scores import ScoreSummary, gather_summaries, merge_all

logger = logging.getLogger(__name__)

FIT_THRESHOLDS = (
    "run engine.validate(model, datamodule=...) on data with validation images, fit thresholds in the checkpoint "
    "(python -m anomalib_grad.thresholds fit), or resume the training."
)
REMOVE_LIMIT = "remove it and run engine.validate(model, datamodule=...)."
MORE_IMAGES = "add images, or raise the datamodule's test_split_ratio or val_split_ratio, and train again."

UNNAMED = ""
"""Stands for the category of images in batches without category names."""
RANGE_STATISTICS = ("image_min", "image_max", "pixel_min", "pixel_max")
STATISTICS = ("image_threshold", "pixel_threshold", *RANGE_STATISTICS)
"""Statistics of each category, in units of the model's scores and maps."""
COLUMNS = {
    level: [STATISTICS.index(f"{level}_{part}") for part in ("min", "max", "threshold")] for level in ("image", "pixel")
}
"""Places of minimum, maximum and threshold among the statistics."""
UNKNOWN = "unknown"
"""Name of categories that training did not see; the pooled statistics judge them."""


class CategoryStatistics(PostProcessor):
    """anomalib's post-processor, which here fits a row of statistics per category beside the pooled ones.

    Arguments and attributes are those of :class:`~anomalib_grad.thresholds.post_processor.PerCategoryPostProcessor`,
    which applies the statistics.
    """

    category_image_threshold: Tensor  # (K,), like all statistics per category
    category_pixel_threshold: Tensor

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        false_alarm_rate: float | None = None,
    ) -> None:
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        if false_alarm_rate is not None:
            check_rate(false_alarm_rate)
        self.false_alarm_rate = false_alarm_rate
        self.categories: list[str] = []
        self.category: str | None = None
        self.kept: Sequence[str] = ()  # categories to keep although the training has no images of them
        self.recogniser = CategoryRecogniser()
        self.records: dict[str, ThresholdRecord] = {}
        for name in STATISTICS:
            self.register_buffer("category_" + name, torch.empty(0))
        self._seen: dict[str, ScoreSummary] = {}
        self._warned: set[str] = set()
        self._explained: set[str] = set()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle; older torch exports hold no records."""
        super().__setstate__({"records": {}, **state})

    # ------------------------------------------------------------------ categories

    def set_categories(self, names: Iterable[str]) -> None:
        """Set the categories, and discard all statistics and records per category and the fit of the recogniser.

        Args:
            names: Unique names, in the order of their indices.

        Raises:
            ValueError: If a name occurs twice.
        """
        names = list(names)
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(f"Category names must be unique; {repeated} occur more than once.")
        self.categories = names
        self.records = {}
        with torch.inference_mode(mode=False):  # validation runs in it, and inference tensors cannot be changed later
            for name in STATISTICS:
                row = torch.full((len(names),), float("nan"), device=self.image_min.device)
                setattr(self, "category_" + name, row)
        self.recogniser.reset(len(names))

    def rearrange(self, kept: Iterable[str], names: Iterable[str]) -> None:
        """Set the categories, keep the statistics of some, and discard the fit of the recogniser.

        Args:
            kept: Names of categories whose statistics stay.
            names: Unique names, in the order of their indices, including those kept.
        """
        own = {name: self.categories.index(name) for name in kept}
        rows = {statistic: getattr(self, "category_" + statistic) for statistic in STATISTICS}
        records = {name: record for name, record in self.records.items() if name in {*own, UNKNOWN}}
        self.set_categories(names)
        self.records = records
        for statistic, row in rows.items():
            for name, place in own.items():
                getattr(self, "category_" + statistic)[self.categories.index(name)] = row[place]

    def named_index(self, name: str) -> int:
        """Return a category's index in :attr:`categories`; raise a ValueError that lists them if it is unknown."""
        if name not in self.categories:
            known = f"choose one of: {', '.join(self.categories)}"
            none = "the model knows none yet, so train or validate it on data with categories first, without `category`"
            raise ValueError(f"There is no category {name!r}; {known if self.categories else none}.")
        return self.categories.index(name)

    # ------------------------------------------------------------------ fitting

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the categories from the datamodule, so that every process has them in the same order.

        Raises:
            ValueError: If :attr:`category` is not among them.
        """
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            self._take_categories(trainer, getattr(datamodule, "categories", ()))
        if self.category is not None:
            self.named_index(self.category)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the categories from the data loaders, once they exist, if there is no datamodule."""
        if getattr(trainer, "datamodule", None) is None:
            datasets = [*datasets_of(trainer.train_dataloader), *datasets_of(trainer.val_dataloaders)]
            shown = {name for dataset in datasets for name in getattr(dataset, "categories", ())}
            self._take_categories(trainer, sorted(shown))

    def _take_categories(self, trainer: Trainer, names: Sequence[str]) -> None:
        """Set the categories of a training; if its data name none, discard old ones unless it resumes."""
        if not names and trainer.ckpt_path is not None:
            return
        taken = sorted({*names, *self.kept}) if self.kept else list(names)
        forgotten = [name for name in self.categories if name not in taken]
        if forgotten:
            logger.warning(
                "The training data do not name %s, so the model forgets them. To keep them, pass its checkpoint as "
                "extends.",
                ", ".join(forgotten),
            )
        if taken != self.categories:
            self.set_categories(taken)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the scores of a validation that was interrupted."""
        self._seen = {}

    def on_validation_batch_end(  # type: ignore[override]  # anomalib's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Batch,
        batch: object = None,
        batch_idx: int = 0,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the validation scores of a batch by category."""
        if trainer.sanity_checking:
            return  # a few batches hold a few categories: no threshold is better than one fitted on these
        names = getattr(outputs, "category", None) or [UNNAMED] * len(outputs.image)  # type: ignore[arg-type]
        loader: Any = getattr(trainer, "val_dataloaders", None)
        own = own_samples(loader)
        if own is not None:  # other processes have the rest
            names = names[: max(own - batch_idx * loader.batch_sampler.batch_size, 0)]
        for name in dict.fromkeys(names):
            rows = [row for row, other in enumerate(names) if other == name]
            self._seen.setdefault(name, ScoreSummary()).update(outputs, rows)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the statistics of each category and the pooled ones, identically in all processes."""
        summaries, self._seen = gather_summaries(self._seen), {}
        everywhere = merge_all(summaries.values())
        unnamed = summaries.pop(UNNAMED, None)
        if not set(summaries) <= set(self.categories):
            self._adopt_categories(summaries, getattr(trainer, "datamodule", None))
        for name, summary in summaries.items():
            self._fit_category(name, summary)
        absent = [name for name in self.categories if name not in summaries]
        of_some = bool(absent and summaries) and not self.image_threshold.isnan() and trainer.state.fn == "validate"
        if of_some:
            logger.warning(
                "The validation data hold no images of %s, so the pooled thresholds, which judge unknown products, "
                "stay as they were.",
                ", ".join(absent),
            )
        if of_some or self.kept:
            self._widen_pooled(everywhere)
        else:
            self._fit_pooled(everywhere)
        if unnamed is not None and unnamed.known and not unnamed.has_anomalies and self.false_alarm_rate is None:
            self._warn_about_gap(UNNAMED, unnamed.shortage())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn at once if training ended before thresholds were fitted."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._warn_without_thresholds(trainer, "training ended without a validation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if there are no thresholds, as in checkpoints of an unfinished training."""
        self._warn_without_thresholds(trainer, "no validation fitted them")

    on_predict_start = on_test_start

    def _warn_without_thresholds(self, trainer: Trainer, reason: str) -> None:
        lack = missing_thresholds(self)
        if lack is not None:
            cause, advice = cause_of_missing_thresholds(trainer) or (reason, FIT_THRESHOLDS)
            logger.warning("The model has %s: %s; %s", lack, cause, advice)

    def _widen_pooled(self, some: ScoreSummary) -> None:
        """Widen the pooled ranges by scores of some categories, which cannot give pooled thresholds.

        In a training that keeps categories, the thresholds follow later (``training/extension.py``).
        """
        for name, extreme in some.extremes.items():
            known = getattr(self, name)
            wider = torch.fmin if name.endswith("_min") else torch.fmax
            known.copy_(wider(known, known.new_tensor(extreme)))

    def _fit_pooled(self, everywhere: ScoreSummary) -> None:
        """Fit the pooled statistics; those without any sample stay as they are."""
        if self.enable_thresholding and everywhere.known:
            rate = self.false_alarm_rate
            found = everywhere.fit(rate)
            images = [] if self.categories else everywhere.known  # records of categories hold theirs
            self.records[UNKNOWN] = ThresholdRecord.of(found.rule, VALIDATION, found.image, images, rate)
            for own, threshold in ((self._image_threshold, found.image), (self._pixel_threshold, found.pixel)):
                if not math.isnan(threshold):
                    own.fill_(threshold)
        for end, extreme in everywhere.extremes.items() if self.enable_normalization else ():
            getattr(self, end).fill_(extreme)

    def _adopt_categories(self, seen: Iterable[str], datamodule: object) -> None:
        """Replace the categories by the datamodule's, or by those in the validation data if it names none.

        Raises:
            ValueError: If the recogniser was fitted on other categories, whose fit would be lost.
        """
        if self.recogniser.fitted:
            new = ", ".join(sorted(set(seen) - set(self.categories)))
            raise ValueError(
                f"The model was not trained on {new}, which the validation data hold; train it on all categories, or "
                f"validate only on the known ones: {', '.join(self.categories)}."
            )
        names = list(getattr(datamodule, "categories", None) or ())
        self.set_categories(names if set(seen) <= set(names) else seen)

    def _fit_category(self, name: str, summary: ScoreSummary) -> None:
        """Fit the statistics of one category."""
        index = self.categories.index(name)
        if self.enable_thresholding:
            rate = self.false_alarm_rate
            self._warn_about_gap(name, summary.shortage() if rate is None else summary.extrapolation(rate))
            found = summary.fit(rate)
            known = rate is not None or summary.shows_anomalies
            self.category_image_threshold[index] = found.image
            self.category_pixel_threshold[index] = found.pixel if known else math.nan
            fitted = float(self.category_image_threshold[index])
            self.records[name] = ThresholdRecord.of(found.rule, VALIDATION, fitted, summary.known, rate)
        if self.enable_normalization:
            for statistic in RANGE_STATISTICS:
                getattr(self, "category_" + statistic)[index] = summary.extremes.get(statistic, math.nan)

    def _warn_about_gap(self, name: str, gap: str | None) -> None:
        """Warn once what a category's validation data lack and which rule fills the gap."""
        if gap is not None and name not in self._explained:
            self._explained.add(name)
            owner = f"Category {name!r} has" if name != UNNAMED else "The data have"
            other = (
                "" if self.false_alarm_rate else ", or set the model's false_alarm_rate, which needs only normal images"
            )
            logger.warning("%s %s. Add some for a better threshold%s.", owner, gap, other)


def missing_thresholds(post_processor: nn.Module | None) -> str | None:
    """Say which thresholds a post-processor lacks and what follows; ``None`` if it has all, or needs none."""
    pooled = getattr(post_processor, "image_threshold", None)
    if pooled is None or not getattr(post_processor, "enable_thresholding", False) or not torch.isnan(pooled):
        return None
    own = getattr(post_processor, "category_image_threshold", torch.empty(0))
    if torch.isnan(own).all():
        return "no thresholds, so its labels mean nothing"
    names = [name for name, threshold in zip(post_processor.categories, own, strict=True) if torch.isnan(threshold)]  # type: ignore[union-attr, arg-type]  # there are some
    return f"no threshold for {', '.join([*names, UNKNOWN])}, so its labels for these mean nothing"


def cause_of_missing_thresholds(trainer: Trainer) -> tuple[str, str] | None:
    """Say why a run cannot fit thresholds and what to do; ``None`` if no reason is known."""
    if trainer.limit_val_batches == 0:
        return "limit_val_batches is 0", REMOVE_LIMIT
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, AnomalibDataModule) or len(getattr(datamodule, "val_data", ())):
        return None
    none_wanted = datamodule.val_split_mode == ValSplitMode.NONE
    return "there are no validation images", TAKE_IMAGES if none_wanted else MORE_IMAGES
