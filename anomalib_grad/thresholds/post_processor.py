# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

"""Verdict on an image: one model for many categories judges each on its own scale of scores.

Anomaly scores of different categories have different ranges, so one pooled threshold is too high for some and too low
for others. :func:`score` finds the category of each image, which may have its own unit and ignored regions, and scores
the image. :class:`PerCategoryPostProcessor` is anomalib's post-processor with a row of statistics per category beside
the pooled ones: it normalises the scores, keeping their order, and compares them with the category's threshold.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from anomalib.data import Batch, InferenceBatch
from torch import Tensor, nn

from anomalib_grad.categories.recogniser import pool
from anomalib_grad.data.ignore_masks import exclude_ignored
from anomalib_grad.files.configuration import check_post_processing
from anomalib_grad.files.refusals import check_names_are_text
from anomalib_grad.torch_model import GradModel

from .category_thresholds import COLUMNS, RANGE_STATISTICS, UNKNOWN, CategoryStatistics
from .normalization import HALF, KNEE
from .threshold_record import ThresholdRecord

__all__ = ["UNKNOWN", "PerCategoryPostProcessor"]

logger = logging.getLogger(__name__)


class Scored(NamedTuple):
    """Scores of images before thresholds are applied.

    Attributes:
        raw: Scores ``(B,)`` and maps ``(B, 1, H, W)``, in the unit of the thresholds.
        category: Index in [0, K] of the category by which each image is judged, int64, shape (B,), or ``None``.
        recognised: Index of the category that the model recognises in each, or was set to for all, or ``None``.
    """

    raw: InferenceBatch
    category: Tensor | None
    recognised: Tensor | None


def score(
    network: GradModel, post_processor: nn.Module | None, features: Tensor, category: Tensor | None = None
) -> Scored:
    """Score images, each in the unit of its category.

    Args:
        network: The network.
        post_processor: Recognises categories, if it is a :class:`PerCategoryPostProcessor`.
        features: The backbone's features of the images, ``(B, C, h, w)``.
        category: Index in [0, K] of the category named for each image, int64, shape (B,); ``None`` takes the one that
            the model was set to, or else recognises.
    """
    own = per_category_or_none(post_processor)
    recognised = None if own is None else own.recognise(pool(features))
    category = recognised if category is None else category
    return Scored(network(features=features, category=category), category, recognised)


def judge(
    pre_processor: nn.Module | None,
    network: GradModel,
    post_processor: nn.Module | None,
    images: Tensor,
    category: Tensor | None = None,
) -> tuple[InferenceBatch, Scored]:
    """Score images ``(B, 3, H, W)`` of any size, RGB in [0, 1], as :func:`score` does, and apply thresholds."""
    features = network.backbone(pre_processor(images) if pre_processor else images)
    scored = score(network, post_processor, features, category)
    own = per_category_or_none(post_processor)
    if own is not None:
        return own(scored.raw, scored.category), scored
    return post_processor(scored.raw) if post_processor else scored.raw, scored


def score_batch(
    network: GradModel, post_processor: nn.Module | None, batch: Batch, features: Tensor | None = None
) -> Batch:
    """Score a batch in place; its post-processor applies thresholds next.

    Images are judged by the category that their data name. The category that the model recognises is written into
    ``explanation``. ``features`` (B, C, h, w) are computed unless given.
    """
    own = per_category_or_none(post_processor)
    features = network.backbone(cast("Tensor", batch.image)) if features is None else features
    scored = score(network, own, features, None if own is None else own.named_in(batch))
    for name, value in scored.raw._asdict().items():
        setattr(batch, name, value)
    if own is not None and scored.recognised is not None:
        batch.explanation = own.category_names(scored.recognised)
    ignored = ignored_pixels(network, own, batch)
    return batch if ignored is None else batch.update(**exclude_ignored(batch, ignored))


def ignored_pixels(network: GradModel, post_processor: nn.Module | None, batch: Batch) -> Tensor | None:
    """Return the pixels ``(B, H, W)`` or ``(1, H, W)`` ignored in a scored batch; ``None`` if nothing is ignored."""
    if network.ignored is None:
        return None
    own = per_category_or_none(post_processor)
    return network.ignored.pixels(None if own is None else own.category_index(batch))


def per_category_or_none(post_processor: object) -> "PerCategoryPostProcessor | None":
    """Return the post-processor if it has thresholds per category, else ``None``."""
    return post_processor if isinstance(post_processor, PerCategoryPostProcessor) else None


def set_only_category(post_processor: nn.Module | None, category: str) -> None:
    """Make a post-processor judge all images as one category; raise a ValueError if it keeps none, or for no text."""
    own = per_category_or_none(post_processor)
    if own is None:
        raise ValueError(
            f"category={category!r} needs thresholds per category: leave post_processor at True, or pass a "
            f"PerCategoryPostProcessor."
        )
    check_names_are_text([category], "category")
    own.category = category


class PerCategoryPostProcessor(CategoryStatistics):
    """anomalib's post-processor with threshold, minimum and maximum of each category, and of all together (pooled).

    Validation batches that carry ``category`` (:class:`anomalib_grad.data.CategoryImageBatch`) fit one row of
    statistics per category, and the pooled ones as in anomalib. At test and prediction an image is judged by the row
    of, in this order, :attr:`category` if set; ``batch.category``; the name that the model recognised and wrote into
    ``batch.explanation``. Without a name, or with an unknown one, the pooled statistics judge it.

    If validation data are incomplete:

    - a category without anomalous images gets its highest normal score as threshold (anomalib's rule), or just above;
    - a category without masks, or with anomalous images whose masks are all empty, gets the pooled pixel threshold, on
      its own range.

    With a :attr:`false_alarm_rate` the thresholds need no anomalous images: this share of normal images exceeds them,
    by their score and by the largest value of their map (see ``rules.py``).

    Without normalisation, raw scores are compared with the category's raw threshold. Sensitivities, which are steps on
    the normalised scale, then have no effect.

    Args:
        enable_normalization: Normalise scores and maps to [0, 1], the threshold to 0.5.
        enable_thresholding: Compute thresholds, labels and masks.
        enable_threshold_matching: Use the image threshold for pixels where there is no pixel threshold, and vice versa.
        image_sensitivity: Higher means more images are called anomalous, in [0, 1].
        pixel_sensitivity: Higher means more pixels are called anomalous, in [0, 1].
        false_alarm_rate: Share of normal images that may be called anomalous, in (0, 1); ``None`` takes the thresholds
            of best F1 on anomalous and normal validation images.

    Attributes:
        categories: Names of the K categories; index K stands for unknown ones and the pooled statistics.
        category: Name of the only category in front of the camera, if the caller knows it; not kept in checkpoints.
        recogniser: Recognises the category from pooled backbone features. The model fits it and calls it.
        records: How the thresholds were fitted, by category; the pooled ones under ``"unknown"``.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(post_processor=PerCategoryPostProcessor())
    """

    # ------------------------------------------------------------------ categories

    def category_names(self, index: Tensor) -> list[str]:
        """Return the names of category indices in [0, K], int64, shape (B,): ``"unknown"`` for K."""
        return [[*self.categories, UNKNOWN][i] for i in index.tolist()]

    def category_threshold(self, name: str) -> float:
        """Return the image threshold of a category (pooled if unknown) in the unit of the scores; nan if not fitted."""
        return float(self.image_thresholds[self.indices_of([name])])

    def named_in(self, batch: Batch) -> Tensor | None:
        """Return each image's category index by :attr:`category` or ``batch.category``: in [0, K], shape (B,), or None.

        Raises:
            ValueError: If :attr:`category` is set to an unknown name.
        """
        if self.category is not None:
            return self.same_index(self.category, batch.image).to(self.image_min.device)  # type: ignore[arg-type]  # has images
        names = getattr(batch, "category", None)
        if names is None or not self.categories:
            return None
        for name in sorted(set(names) - set(self.categories) - self._warned):
            self._warned.add(name)
            if not torch.isnan(self.image_threshold):  # without any threshold, the run has warned at its start
                logger.warning("Category %r has no threshold of its own, so the pooled one is used.", name)
        return self.indices_of(names)

    def category_index(self, batch: Batch) -> Tensor | None:
        """Return the category index of each image in a scored batch: :meth:`named_in`, else ``batch.explanation``."""
        named, recognised = self.named_in(batch), getattr(batch, "explanation", None)
        return self.indices_of(recognised) if named is None and recognised and self.categories else named

    def recognise(self, pooled: Tensor) -> Tensor | None:
        """Recognise the category of each image from its features, or return that of :attr:`category` if set.

        Args:
            pooled: Features averaged over the image, shape (B, C).

        Returns:
            Indices in [0, K], int64, shape (B,), or None before the recogniser is fitted.
        """
        if self.category is not None:
            return self.same_index(self.category, pooled)
        return self.recogniser(pooled) if self.recogniser.fitted else None

    def indices_of(self, names: Iterable[str]) -> Tensor:
        """Return the indices of category names, K for unknown ones: int64, shape (B,)."""
        indices = {name: index for index, name in enumerate(self.categories)}
        return torch.tensor([indices.get(name, len(indices)) for name in names], device=self.image_min.device)

    def same_index(self, name: str | None, values: Tensor) -> Tensor:
        """Return the index of one category, K for ``None``, for each image of ``(B, ...)``: int64, shape (B,)."""
        index = len(self.categories) if name is None else self.named_index(name)
        # not len(): the exporter would fix the batch size to its example's
        return torch.full((values.shape[0],), index, device=values.device)

    # ------------------------------------------------------------------ statistics, (K + 1,), pooled last

    @property
    def image_thresholds(self) -> Tensor:
        """Raw image threshold of each category, or the pooled one if it has none; pooled last. Shape (K + 1,)."""
        return first_known(self.category_image_threshold, pooled=self.image_threshold)

    @property
    def pixel_thresholds(self) -> Tensor:
        """Raw pixel threshold of each category, or the pooled one if it has none; pooled last. Shape (K + 1,)."""
        own = first_known(self.category_pixel_threshold, pooled=self._pixel_threshold)
        if not self.enable_threshold_matching:
            return own
        return torch.where(torch.isnan(own), self.image_thresholds, own)

    @property
    def table(self) -> Tensor:
        """All :data:`STATISTICS` in their order, a row for each category, then the pooled row: (K + 1, 6)."""
        fixed: Tensor | None = getattr(self, "fixed_table", None)
        if fixed is not None:
            return fixed
        rows = (first_known(getattr(self, f"category_{end}"), pooled=getattr(self, end)) for end in RANGE_STATISTICS)
        return torch.stack([self.image_thresholds, self.pixel_thresholds, *rows], dim=1)

    @contextmanager
    def holding_table(self) -> Iterator[None]:
        """Keep the table in a buffer during the block, so that an exported graph holds it under that name."""
        self.register_buffer("fixed_table", self.table.detach().clone(), persistent=False)
        try:
            yield
        finally:
            del self.fixed_table

    # ------------------------------------------------------------------ applying

    def forward(self, predictions: InferenceBatch, category_index: Tensor | None = None) -> InferenceBatch:
        """Normalise and threshold the predictions of the model; exportable.

        Args:
            predictions: Scores (B,) and maps (B, 1, H, W), at least one of them.
            category_index: Category of each image in [0, K], int64, shape (B,); pooled statistics if None.
                :attr:`category` overrides it if set.

        Returns:
            The predictions with scores and maps in [0, 1], labels and masks.

        Raises:
            ValueError: If there is neither score nor map, or :attr:`category` is set to an unknown name.
        """
        pred_score, anomaly_map = predictions.pred_score, predictions.anomaly_map
        if pred_score is None:
            if anomaly_map is None:
                return super().forward(predictions)  # raises, and says what is missing
            pred_score = torch.amax(anomaly_map, dim=(-2, -1))
        if self.category is not None or category_index is None:
            category_index = self.same_index(self.category, pred_score)
        statistics = self.table.index_select(0, category_index)  # (B, 6)
        pred_score, pred_label = self._judge("image", pred_score, statistics)
        anomaly_map, pred_mask = self._judge("pixel", anomaly_map, statistics)
        return InferenceBatch(
            pred_score=pred_score, pred_label=pred_label, anomaly_map=anomaly_map, pred_mask=pred_mask
        )

    def _judge(self, level: str, values: Tensor | None, statistics: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Normalise and label scores (B,) or maps (B, ..., H, W) by statistics (B, 6) of their categories."""
        if values is None:
            return None, None
        low, high, threshold = (
            statistics[:, column].reshape(-1, *[1] * (values.ndim - 1)) for column in COLUMNS[level]
        )
        if not self.enable_normalization:
            return values, values > threshold if self.enable_thresholding else None
        normalized = normalize(values, low, high, threshold)
        level_threshold = getattr(self, f"normalized_{level}_threshold")
        return normalized, self._apply_threshold(normalized, level_threshold) if self.enable_thresholding else None

    def post_process_batch(self, batch: Batch) -> None:
        """Normalise and threshold a batch in place, each image by its category; existing labels and masks stay."""
        raw = InferenceBatch(pred_score=batch.pred_score, anomaly_map=batch.anomaly_map)
        if raw.pred_score is None and raw.anomaly_map is None:
            return
        result = self(raw, self.category_index(batch))
        batch.pred_score, batch.anomaly_map = result.pred_score, result.anomaly_map
        if batch.pred_label is None:
            batch.pred_label = result.pred_label
        if batch.pred_mask is None:
            batch.pred_mask = result.pred_mask

    # ------------------------------------------------------------------ checkpoints

    def checkpoint_config(self) -> dict[str, Any]:
        """Return the configuration as plain data for a checkpoint, including the names of the categories."""
        own = {"categories": list(self.categories), "false_alarm_rate": self.false_alarm_rate}
        records = {name: record.to_plain() for name, record in self.records.items()}
        return {**super().checkpoint_config(), **own, "records": records}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the configuration, and make room for the statistics of the state dict, which is loaded next.

        Raises:
            ValueError: If it does not come from :meth:`checkpoint_config`.
        """
        check_post_processing(config)
        super().load_checkpoint_config(config)
        self.false_alarm_rate = config.get("false_alarm_rate")
        if "categories" in config:
            self.set_categories(config["categories"])
        records = config.get("records", {})
        self.records = {str(name): ThresholdRecord.from_plain(record) for name, record in records.items()}


def normalize(scores: Tensor, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor:
    """Map the minimum to 0 and the threshold to 0.5, linearly on either side up to 0.9, and higher scores below 1.

    anomalib's own normalisation has one slope around the threshold and clips to [0, 1]: where the threshold is far
    from the middle, different scores become equal and ranking metrics fall (seen on real products: image AUROC 83.3
    instead of 91.4). With a slope on either side, all scores within the range of the validation data keep their
    order. So do scores beyond it, since a range of normal images alone ends where defects begin; see
    ``normalization.py``.

    Args:
        scores: Raw scores of any shape.
        norm_min: Smallest validation score, broadcastable to ``scores``.
        norm_max: Largest validation score.
        threshold: Raw threshold; nan takes the middle of the range.

    Returns:
        Scores in [0, 1]; raw ones where there is no range yet.
    """
    threshold = torch.where(torch.isnan(threshold), (norm_max + norm_min) / 2, threshold)
    below, above = threshold - norm_min, norm_max - threshold
    # A threshold at an extreme leaves one side without extent, which takes the other's; without any range, 1.
    below, above = torch.where(below > 0, below, above), torch.where(above > 0, above, below)
    below, above = (torch.where(extent > 0, extent, torch.ones_like(extent)) for extent in (below, above))
    # Clamps, because a choice for each pixel is slow in exported graphs.
    distance, linear, width = scores - threshold, 2 * KNEE - 1, below + above
    within = (distance / below).clamp(min=-1.0, max=0.0) + (distance / above).clamp(min=0.0, max=linear)
    beyond = 1 - width / (width + torch.relu(distance - linear * above))
    normalized = HALF * (1 + within) + (1 - KNEE) * beyond
    return torch.where(torch.isnan(norm_min) | torch.isnan(norm_max), scores, normalized)


def first_known(categories: Tensor, pooled: Tensor) -> Tensor:
    """Return the categories' values (K,), then the pooled one, which also replaces their NaN: (K + 1,)."""
    return torch.cat([torch.where(torch.isnan(categories), pooled, categories), pooled.reshape(1)])
