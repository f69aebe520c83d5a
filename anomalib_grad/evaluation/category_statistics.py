# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a post-processor learns of each category from validation scores: thresholds and ranges."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer
from torch import Tensor

from anomalib_grad.components.recogniser import CategoryRecogniser
from anomalib_grad.evaluation.false_alarms import check_rate
from anomalib_grad.evaluation.validation_scores import (
    CategoryScores,
    ScoreSummary,
    gather_summaries,
    merge_all,
    select,
    take_part,
)

logger = logging.getLogger(__name__)

_STATISTICS = ("image_threshold", "pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")


class CategoryStatistics(PostProcessor):
    """anomalib's post-processor that fits a row of statistics per category beside the pooled ones.

    Arguments and attributes are those of :class:`~anomalib_grad.evaluation.post_processor.PerCategoryPostProcessor`,
    which applies the statistics.
    """

    category_image_threshold: Tensor  # (K,), as are the following
    category_pixel_threshold: Tensor
    category_image_min: Tensor
    category_image_max: Tensor
    category_pixel_min: Tensor
    category_pixel_max: Tensor

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
        self.recogniser = CategoryRecogniser()
        for name in _STATISTICS:
            self.register_buffer("category_" + name, torch.empty(0))
        self._seen: dict[str, CategoryScores] = {}
        self._unnamed = ScoreSummary()
        self._warned: set[str] = set()
        self._explained: set[str] = set()

    # ------------------------------------------------------------------ categories

    def set_categories(self, names: Iterable[str]) -> None:
        """Set the categories; forgets all statistics per category and the fit of the recogniser.

        Args:
            names: Unique names, in the order of their indices.

        Raises:
            ValueError: If a name occurs twice.
        """
        names = list(names)
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(f"Give every category a name of its own; {repeated} occur more than once.")
        self.categories = names
        with torch.inference_mode(
            mode=False
        ):  # validation runs in it, and its tensors cannot be changed in place later
            for name in _STATISTICS:
                row = torch.full((len(names),), float("nan"), device=self.image_min.device)
                setattr(self, "category_" + name, row)
        self.recogniser.reset(len(names))

    def named_index(self, name: str) -> int:
        """Index of a category.

        Args:
            name: Name of the category.

        Returns:
            Its index in :attr:`categories`.

        Raises:
            ValueError: If there is no such category; lists those that there are.
        """
        if name not in self.categories:
            known = ", ".join(self.categories) or "none; train or validate on data with categories first"
            raise ValueError(f"No category is called {name!r}; choose one of those known: {known}.")
        return self.categories.index(name)

    # ------------------------------------------------------------------ fitting

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the categories of the datamodule, so that every process has them in the same order.

        Raises:
            ValueError: If :attr:`category` is not among them.
        """
        del pl_module
        names = getattr(getattr(trainer, "datamodule", None), "categories", None)
        if names is not None and list(names) != self.categories:
            self.set_categories(names)
        if names is not None and self.category is not None:
            self.named_index(self.category)

    def on_validation_batch_end(  # type: ignore[override]  # anomalib's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Batch,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Take in a batch of validation scores, category by category."""
        names = getattr(outputs, "category", None)
        if names is None:
            super().on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)
            if not trainer.sanity_checking:
                self._unnamed.update(select(outputs, list(range(len(outputs.image)))))  # type: ignore[arg-type]
            return
        if trainer.sanity_checking:
            return  # a few batches are a few categories: no threshold at all is better than one of those
        for name in dict.fromkeys(names):
            scores = select(outputs, [i for i, other in enumerate(names) if other == name])
            seen = self._seen.setdefault(name, CategoryScores(self.image_min.device))
            seen.update(scores, with_thresholds=self.enable_thresholding)
            # Pooled and per-category metrics keep views of the same tensors, so scores are held once.
            super().on_validation_batch_end(trainer, pl_module, scores.as_batch(), *args, **kwargs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the statistics of each category, then the pooled ones."""
        summaries = gather_summaries({name: seen.summary for name, seen in self._seen.items()})
        if not set(summaries) <= set(self.categories):
            self._adopt_categories(summaries, getattr(trainer, "datamodule", None))
        for name, summary in summaries.items():
            self._fit_category(name, summary, self._seen.get(name, CategoryScores(self.image_min.device)))
        self._seen = {}
        everywhere = merge_all(summaries.values())
        if self.enable_thresholding:
            take_part(self._image_threshold_metric, everywhere, "image")
            take_part(self._pixel_threshold_metric, everywhere, "pixel")
        if self.enable_normalization:
            take_part(self._image_min_max_metric, everywhere, "image")
            take_part(self._pixel_min_max_metric, everywhere, "pixel")
        super().on_validation_epoch_end(trainer, pl_module)
        if self.enable_thresholding and 0 < everywhere.counts["anomalous_image"] < everywhere.counts["image"]:
            self._image_threshold.fill_(everywhere.below(float(self._image_threshold)))
        unnamed, self._unnamed = gather_summaries({"": self._unnamed}), ScoreSummary()
        self._promise(merge_all([everywhere, *unnamed.values()]))

    def _promise(self, everywhere: ScoreSummary) -> None:
        """Set the pooled thresholds by the rate of false alarms, if one is wanted and there are normal images."""
        if self.false_alarm_rate is None or not self.enable_thresholding:
            return
        for level, pooled in (("image", self._image_threshold), ("pixel", self._pixel_threshold)):
            if everywhere.normal[level]:
                pooled.fill_(everywhere.false_alarm_threshold(level, self.false_alarm_rate))

    def _adopt_categories(self, seen: Iterable[str], datamodule: object) -> None:
        """Replace the categories by those of the datamodule, or those of the validation data if it names none.

        Raises:
            ValueError: If the model has learned to recognise others, which it would forget.
        """
        if self.recogniser.fitted:
            self._seen = {}
            new = ", ".join(sorted(set(seen) - set(self.categories)))
            raise ValueError(
                f"The validation data hold {new}, which the model was not trained on; train it on all the categories, "
                f"or validate on those that it knows: {', '.join(self.categories)}."
            )
        names = list(getattr(datamodule, "categories", None) or ())
        self.set_categories(names if set(seen) <= set(names) else seen)

    def _fit_category(self, name: str, summary: ScoreSummary, seen: CategoryScores) -> None:
        """Set the row of one category; all processes do so for the same categories in the same order."""
        index = self.categories.index(name)
        if self.enable_thresholding and self.false_alarm_rate is not None:
            self._explain(name, summary.extrapolation(self.false_alarm_rate))
            for level, row in (("image", self.category_image_threshold), ("pixel", self.category_pixel_threshold)):
                row[index] = summary.false_alarm_threshold(level, self.false_alarm_rate)
        elif self.enable_thresholding:
            self._explain(name, summary.shortage())
            self.category_image_threshold[index] = seen.fit_threshold("image", summary)
            self.category_pixel_threshold[index] = seen.fit_threshold("pixel", summary)
        if self.enable_normalization:
            for statistic in ("image_min", "image_max", "pixel_min", "pixel_max"):
                row = getattr(self, "category_" + statistic)
                row[index] = summary.extremes.get(statistic, float("nan"))

    def _explain(self, name: str, rule: str | None) -> None:
        """Say once what a category's validation data lack and which rule fills the gap."""
        if rule is not None and name not in self._explained:
            self._explained.add(name)
            logger.warning("Category %r has %s. Add such validation images for a better one.", name, rule)
