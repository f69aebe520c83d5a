# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What Grad does about product categories: learn to recognise them, name them, post-process each by its own."""

import logging
from collections.abc import Mapping, Sequence
from typing import cast

import lightning.pytorch as pl
import torch
from anomalib.data import Batch, InferenceBatch
from torch import Tensor, nn

from anomalib_grad.deploy.export import RAW, ExplainedInferenceBatch, ExportedBatch
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor
from anomalib_grad.torch_model import GradModel

from .features import CategoryFeatures

logger = logging.getLogger(__name__)

_MEANS = "post_processor.recogniser.means"


class CategoryMixin(pl.LightningModule):
    """Category recognition for a model whose post-processor may be a :class:`PerCategoryPostProcessor`.

    The space in which categories are told apart is that of the backbone's features averaged over the image: they are
    there anyway, frozen, and known after one epoch.
    """

    post_processor: nn.Module | None
    model: GradModel
    _exporting: bool
    _category_features: CategoryFeatures
    _learning_categories = False
    _categories_before: Sequence[str] = ()

    @property
    def per_category(self) -> PerCategoryPostProcessor | None:
        """The post-processor, if it keeps categories."""
        return self.post_processor if isinstance(self.post_processor, PerCategoryPostProcessor) else None

    @property
    def categories(self) -> list[str]:
        """Names of the categories, in the order of their indices; none where the post-processor keeps none."""
        return [] if self.per_category is None else self.per_category.categories

    @property
    def resumed(self) -> bool:
        """Whether the trainer goes on from a checkpoint."""
        return self.trainer.ckpt_path is not None

    # ------------------------------------------------------------------ inference

    def name_category(self, category: str) -> None:
        """Judge all images by one category, whatever they are taken for.

        Raises:
            ValueError: If the post-processor keeps no categories.
        """
        if self.per_category is None:
            raise ValueError(
                f"category={category!r} needs thresholds per category: leave post_processor at True, or pass a "
                f"PerCategoryPostProcessor."
            )
        self.per_category.category = category

    def category_index(self, features: Tensor) -> Tensor | None:
        """Find the category of each image: the one that the caller named, else the one recognised.

        Args:
            features: Backbone features ``(B, C, H, W)``.

        Returns:
            Indices ``(B,)`` into the post-processor's categories, or ``None`` if it keeps none.
        """
        post_processor = self.per_category
        if post_processor is None:
            return None
        if post_processor.category is not None:
            return post_processor.same_index(post_processor.category, features)
        if post_processor.recogniser.fitted:
            return cast("Tensor", post_processor.recogniser(pool(features)))
        return None

    def judged_index(self, batch: Batch, recognised: Tensor | None) -> Tensor | None:
        """Find the category that each image of a batch is judged by: the one that its data name, else as recognised."""
        post_processor, names = self.per_category, getattr(batch, "category", None)
        if post_processor is None or post_processor.category is not None or names is None:
            return recognised
        return post_processor.indices_of(names) if post_processor.categories else None

    def name_categories(self, batch: Batch, index: Tensor | None) -> None:
        """Write category names into anomalib's free-text field ``explanation`` of an image batch."""
        if index is not None and self.per_category is not None and hasattr(batch, "explanation"):
            batch.explanation = self.per_category.category_names(index)

    def post_process(self, predictions: InferenceBatch, index: Tensor | None) -> InferenceBatch:
        """Post-process raw predictions, each image by its category; adds index (export) or name of the category."""
        if self.post_processor is None:
            return predictions
        if self.per_category is not None and self._exporting:
            processed = self.per_category(predictions, index)._asdict()
            raw = dict(zip(RAW, (predictions.pred_score, predictions.anomaly_map), strict=True))
            return cast("InferenceBatch", ExportedBatch(**processed, **raw, category=index))  # type: ignore[arg-type]
        if index is None or self.per_category is None:
            return cast("InferenceBatch", self.post_processor(predictions))
        processed = self.per_category(predictions, index)._asdict()
        names = self.per_category.category_names(index)
        return cast("InferenceBatch", ExplainedInferenceBatch(**processed, explanation=names))

    # ------------------------------------------------------------------ learning to recognise

    def make_room(self, state_dict: Mapping[str, Tensor], channels: int) -> None:
        """Give the recogniser the shapes of the fit that a state dict brings, if it brings one.

        Args:
            state_dict: Of the whole model, about to be loaded; the categories are set already.
            channels: Number of the backbone's channels.
        """
        means = state_dict.get(_MEANS)
        if self.per_category is not None and means is not None and means.numel():
            self.per_category.recogniser.reset(len(self.per_category.categories), channels)

    def on_fit_start(self) -> None:
        """Learn the categories afresh, unless the fit goes on from a checkpoint that knows them."""
        self._category_features.clear()
        post_processor = self.per_category
        self._learning_categories = post_processor is not None and not (
            self.resumed and post_processor.recogniser.fitted
        )

    def remember_features(self, features: Tensor, batch: Batch) -> None:
        """Keep the pooled features of a training batch that names its categories, while they are being learned."""
        names = getattr(batch, "category", None)
        if names is not None and self._learning_categories:
            self._category_features.add(pool(features), names)

    def fit_recogniser(self) -> bool:
        """Fit on the training images seen so far, once there is one of each category; alike in all processes.

        Returns:
            Whether there was one of each.
        """
        post_processor = self.per_category
        if post_processor is None or not self._learning_categories or not post_processor.categories:
            return False
        categories = post_processor.categories
        features, names = self._category_features.gather()
        if not set(categories) <= set(names):
            return False
        known = [row for row, name in enumerate(names) if name in categories]
        labels = torch.tensor([categories.index(names[row]) for row in known])
        post_processor.recogniser.fit(features[known], labels, len(categories))
        return True

    def on_validation_start(self) -> None:
        """Fit before the thresholds are: the epoch's checkpoint is written right after them."""
        self._categories_before = list(self.categories)
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.fit_recogniser()

    def on_validation_epoch_end(self) -> None:
        """Keep what is usual for a category with its name, where validation data brought others."""
        if self.categories != self._categories_before:
            self.model.rearrange(self._categories_before, self.categories)

    def on_train_epoch_end(self) -> None:
        """Fit on the whole epoch; if a category is still missing, go on collecting in the next."""
        if self.fit_recogniser():
            self._learning_categories = False
            self._category_features.clear()

    def on_fit_end(self) -> None:
        """Say which categories training never showed."""
        if not self._learning_categories or self.per_category is None:
            return
        missing = sorted(set(self.per_category.categories) - set(self._category_features.gather()[1]))
        if missing:
            logger.warning(
                "The model cannot recognise categories: training showed no image of %s. Train on more batches, or name "
                "the category at prediction (Grad(category=...)).",
                ", ".join(missing),
            )


def pool(features: Tensor) -> Tensor:
    """Average features ``(B, C, H, W)`` over the image: ``(B, C)``."""
    return features.mean(dim=(2, 3))
