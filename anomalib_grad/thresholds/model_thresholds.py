# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""All thresholds of a trained model with their records, and how to change them, independent of the model's file.

They are a plain value here; ``adjustment`` reads it from a checkpoint or an export and writes it back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .category_thresholds import COLUMNS, STATISTICS, UNKNOWN
from .labelled_scores import KnownImage, peaks_of, scores_of, thinned
from .normalization import HALF, denormalize, extents, place_range, score_at
from .post_processor import PerCategoryPostProcessor
from .rules import Fit, fit, moved
from .threshold_record import RESCORED, VALIDATION, ThresholdRecord

ALL = "all"
"""Name for all images of a model without categories."""
MOVED = ", moved"
NO_RANGE = (
    "The model has no score range yet, so a threshold alone would mean nothing: validate the checkpoint and export it "
    "again, or fit the threshold on images (command fit)."
)
LARGEST = float(np.finfo(np.float32).max)


@dataclass
class ModelThresholds:
    """Thresholds, ranges and records of a model.

    Attributes:
        products: Names of the K categories; empty if the model has none.
        table: ``STATISTICS`` in the unit of the scores, a row for each category, then the pooled row: (K + 1, 6).
        records: How thresholds were fitted, by product; the pooled ones under ``"unknown"``.
        normalized: Whether the model normalises scores to [0, 1], the threshold to 0.5.
        image_sensitivity: anomalib's setting for all products: scores above one minus it are called anomalous.
        pixel_sensitivity: The same for maps.
    """

    products: list[str]
    table: np.ndarray
    records: dict[str, ThresholdRecord]
    normalized: bool = True
    image_sensitivity: float = HALF
    pixel_sensitivity: float = HALF

    @classmethod
    def of(cls, post_processor: PerCategoryPostProcessor, products: list[str] | None = None) -> "ModelThresholds":
        """Read a post-processor's thresholds; ``products`` defaults to its categories, ``[]`` takes the pooled row."""
        table = post_processor.table.detach().cpu().double().numpy()
        products = list(post_processor.categories) if products is None else products
        return cls(
            products,
            table if products else table[-1:],
            dict(post_processor.records),
            post_processor.enable_normalization,
            float(post_processor.image_sensitivity),
            float(post_processor.pixel_sensitivity),
        )

    def apply_to(self, post_processor: PerCategoryPostProcessor, *products: str) -> None:
        """Write the statistics and records of some products, or all, to a post-processor with the same categories."""
        for product in products or self.names:
            row, key = self.row(product), self._key(product)
            for name, value in zip(STATISTICS, self.table[row].tolist(), strict=True):
                own = getattr(post_processor, f"category_{name}")
                pooled = getattr(post_processor, f"_{name}" if name.endswith("threshold") else name)
                (own[row] if row < len(own) else pooled).fill_(value)
            if key in self.records:
                post_processor.records[key] = self.records[key]

    def to_plain(self) -> dict[str, Any]:
        """Return everything but the table as plain data."""
        records = {name: record.to_plain() for name, record in self.records.items()}
        settings = {name: getattr(self, name) for name in ("normalized", "image_sensitivity", "pixel_sensitivity")}
        return {"records": records, **settings}

    @classmethod
    def from_plain(cls, plain: Any, products: list[str], table: np.ndarray) -> "ModelThresholds":  # noqa: ANN401
        """Read what :meth:`to_plain` returned; raise a LookupError, TypeError or ValueError for anything else."""
        records = {str(name): ThresholdRecord.from_plain(record) for name, record in plain["records"].items()}
        if table.shape != (len(products) + 1, len(STATISTICS)):
            raise ValueError(f"there are {len(products)} products and statistics of shape {table.shape}")
        sensitivities = float(plain["image_sensitivity"]), float(plain.get("pixel_sensitivity", HALF))
        return cls(products, table, records, bool(plain["normalized"]), *sensitivities)

    # ------------------------------------------------------------------ reading

    @property
    def names(self) -> list[str]:
        """Names of the table's rows."""
        return [*self.products, UNKNOWN] if self.products else [ALL]

    def row(self, product: str | None) -> int:
        """Return a product's row, ``None`` for the only one; raise a ValueError that lists the products if unknown."""
        if product is None and not self.products:
            return 0
        if product not in self.names:
            wrong = "Name the product" if product is None else f"The model knows no product {product!r}"
            raise ValueError(f"{wrong}; choose one of: {', '.join(self.names)}.")
        return self.names.index(product)

    def record(self, product: str | None) -> ThresholdRecord | None:
        """Return the record of a product's threshold; ``None`` without one, as in files of older versions."""
        return self.records.get(self._key(product))

    def images(self, product: str | None) -> tuple[KnownImage, ...]:
        """Return the known images of a product; for ``"unknown"`` those of all products, unless it has its own."""
        record = self.record(product)
        if product == UNKNOWN and record is not None and not record.images:
            return tuple(image for name in self.products if name in self.records for image in self.records[name].images)
        return () if record is None else record.images

    def threshold(self, product: str | None) -> float:
        """Return the score above which images of a product are called anomalous, in the unit of the model's scores."""
        return self._threshold(self.row(product), "image")

    def promise(self, product: str | None) -> float | None:
        """Return the promised false alarm rate; ``None`` if none is promised, or no longer.

        A model whose sensitivity is not 0.5 does not judge by the fitted threshold, until one is set.
        """
        record = self.record(product)
        return record.rate if record is not None and self._is_as_fitted(product, record) else None

    def _is_as_fitted(self, product: str | None, record: ThresholdRecord) -> bool:
        return math.isclose(self.threshold(product), record.fitted, rel_tol=1e-4)

    def _threshold(self, row: int, level: str) -> float:
        """Return the score above which images or pixels are called anomalous."""
        low, high, threshold = self._range(row, level)
        normalized = 1 - getattr(self, f"{level}_sensitivity")
        if not self.normalized or math.isnan(low) or normalized == HALF:
            return threshold
        return denormalize(normalized, low, high, threshold)

    def _range(self, row: int, level: str) -> list[float]:
        """Return minimum, maximum and threshold of images or pixels."""
        values: list[float] = self.table[row, COLUMNS[level]].tolist()
        return values

    # ------------------------------------------------------------------ changing

    def set_threshold(self, product: str | None, threshold: float) -> None:
        """Set the threshold of a product, in the unit of the model's scores.

        Raises:
            ValueError: If there is no such product, or the threshold is not finite in float32.
        """
        if not abs(threshold) <= LARGEST:
            raise ValueError(
                f"A threshold must be a finite float32 number, because models compute in float32, got {threshold:g}."
            )
        self._change(product, Fit(threshold, math.nan, f"threshold {threshold:g}"))

    def set_sensitivity(self, product: str | None, sensitivity: float) -> None:
        """Set the threshold of a product by sensitivity: 0.5 is the fitted one, 1 its lowest score, 0 its highest.

        Raises:
            ValueError: If there is no such product, its threshold has no record, the model does not normalise scores,
                or the sensitivity is not in [0, 1].
        """
        if not 0 <= sensitivity <= 1:
            raise ValueError(
                f"A sensitivity must lie between 0 and 1, got {sensitivity:g}; 0.5 is the fitted threshold."
            )
        if not self.normalized:
            raise ValueError("The model does not normalise scores, so it has no sensitivity; set a --threshold.")
        fitted, row = self._fitted_record(product).fitted, self.row(product)
        low, high, _ = self._range(row, "image")
        threshold = score_at(1 - sensitivity, low, high, fitted)
        self._change(product, Fit(threshold, math.nan, f"sensitivity {sensitivity:g}"))

    def set_false_alarms(self, product: str | None, rate: float) -> None:
        """Fit the thresholds of a product's images and maps to a false alarm rate on its known normal images.

        Raises:
            ValueError: If there is no such product, no normal image of it is known, or the rate is not in (0, 1).
        """
        old = self._fitted_record(product)
        images = self.images(product)
        if not scores_of(images, anomalous=False):
            raise ValueError(
                f"The file has no normal image of {self._name_of(product)}; fit the threshold on some (command fit)."
            )
        found = fit(images, rate)
        self._change(product, found, replace(old, fitted=found.image, rate=rate))

    def fit(self, product: str | None, images: list[KnownImage], source: str, rate: float | None) -> None:
        """Fit the threshold of a product on other images than training did; its range moves with it.

        Args:
            product: Name of the product.
            images: Images scored by the model, at least one of them normal.
            source: Where they come from.
            rate: False alarm rate. ``None`` takes best F1 if there are anomalous images, else the rate promised before,
                or else the highest normal score.

        Raises:
            ValueError: If there is no such product, or the rate is not in (0, 1).
        """
        row, old = self.row(product), self.record(product)
        if rate is None and old is not None and not any(image.anomalous for image in images):
            rate = old.rate
        found = fit(images, rate)
        self._move_range(row, images, found)
        self._change(product, found, ThresholdRecord.of(found.rule, source, found.image, images, rate))

    def correct(self, product: str | None, corrections: list[KnownImage], what: str) -> None:
        """Fit the threshold of a product again, on its known images and others whose verdict someone checked.

        Raises:
            ValueError: If there is no such product, or its threshold has no record.
        """
        old = self._fitted_record(product)
        corrected = {(image.name, float(f"{image.score:.3g}")) for image in corrections}  # counted once if known
        known = self.images(product)
        others = [one for one in known if (one.name, float(f"{one.score:.3g}")) not in corrected]
        images = [*others, *corrections]
        rate = None if any(image.anomalous for image in images) else old.rate
        found = fit(images, rate)
        normal, anomalous = (
            seen + len(scores_of(images, anomalous=truth)) - len(scores_of(known, anomalous=truth))
            for seen, truth in zip(old.seen, (False, True), strict=True)
        )
        self._change(
            product,
            Fit(found.image, found.pixel if rate else math.nan, f"{found.rule}, {what}"),
            replace(old, fitted=found.image, images=thinned(images), seen=(normal, anomalous), rate=rate),
        )

    def follow(
        self,
        product: str | None,
        before: Sequence[KnownImage],
        after: Sequence[KnownImage],
        more: Sequence[KnownImage] = (),
    ) -> None:
        """Move the threshold of a product with the scores of validation images, after the network has changed.

        A threshold that promises a false alarm rate is fitted on these images by the same rule, and so is any if there
        are ``more`` images. One of best F1 moves so that as many of these images exceed it as before: they are few, and
        the best threshold for a few differs from that for all. Any other follows the normal images alone.

        Args:
            product: Name of the product.
            before: The images with their scores when the threshold was valid; without normal ones it stays.
            after: The same images with their scores now.
            more: Additional images to fit on.

        Raises:
            ValueError: If there is no such product.
        """
        row, old = self.row(product), self.record(product) or ThresholdRecord("unknown", "unknown", math.nan)
        image, pixel = (self._threshold(row, level) for level in COLUMNS)
        normal = [scores_of(images, anomalous=False) for images in (before, after)]
        if not normal[0]:
            return
        rule = f"{old.rule.removesuffix(MOVED)}{MOVED}"
        found = Fit(moved(image, *normal), moved(pixel, peaks_of(before), peaks_of(after)), rule)
        new = ThresholdRecord.of(found.rule, RESCORED, moved(old.fitted, *normal), list(after))
        if old.source not in {VALIDATION, RESCORED}:  # the scores of those images by this network are unknown
            new = ThresholdRecord.of(found.rule, f"{old.source}, scored by an earlier network", new.fitted, [])
        elif self._is_as_fitted(product, old):
            if old.rate is not None:
                found = fit([*after, *more], old.rate)
            elif more:
                found = fit([*after, *more], None)._replace(pixel=found.pixel)
            else:
                found = found._replace(image=moved(image, *([one.score for one in part] for part in (before, after))))
            new = ThresholdRecord.of(found.rule, RESCORED, found.image, [*after, *more], old.rate)
        if product == UNKNOWN:  # the records of the products hold its images
            new = replace(new, images=())
        self._move_range(row, [*after, *more], found)
        self._change(product, found, new)

    def _change(self, product: str | None, found: Fit, new: ThresholdRecord | None = None) -> None:
        """Set thresholds, nan leaving one as it is, and add the change to the ``new`` record, or else to the old one.

        Without a ``new`` record, the threshold promises no false alarm rate.
        """
        row = self.row(product)
        if self._lacks_range(row):
            raise ValueError(NO_RANGE)
        before = self.threshold(product)
        found = found._replace(image=float(np.float32(found.image)))  # as models hold it
        for level, threshold in (("image", found.image), ("pixel", found.pixel)):
            self._place(row, level, threshold)
        old = self.record(product) or ThresholdRecord(found.rule, "unknown", math.nan)
        new = replace(new or replace(old, rate=None), rule=found.rule, history=old.history)
        self.records[self._key(product)] = new.changed(found.rule, before, found.image)

    def _place(self, row: int, level: str, threshold: float) -> None:
        """Make a row judge by a threshold; nan leaves it as it is.

        Raises:
            ValueError: If scores around it could not be computed in float32.
        """
        if math.isnan(threshold):
            return
        low, high, _ = self._range(row, level)
        middle, scale = threshold, 0.0
        if self.normalized and not math.isnan(low):
            low, middle, high = place_range(threshold, 1 - getattr(self, f"{level}_sensitivity"), low, high)
            scale = sum(extents(low, high, middle))
        if not max(abs(middle), scale) <= LARGEST:
            raise ValueError(
                f"The threshold {threshold:g} is too far from the scores for models that compute in float32; choose "
                "another threshold, or fit it on other images."
            )
        self.table[row, COLUMNS[level]] = low, high, middle

    def _move_range(self, row: int, images: Sequence[KnownImage], found: Fit) -> None:
        """Start the range at the lowest new score, and extend it beyond the threshold at least as far as before."""
        for level, threshold, values in (
            ("image", found.image, [image.score for image in images]),
            ("pixel", found.pixel, [image.peak for image in images if not math.isnan(image.peak)]),
        ):
            finite = [value for value in values if math.isfinite(value)]
            if not finite or math.isnan(threshold):
                continue
            low, high, _ = self._range(row, level)
            if level == "image" or math.isnan(low):  # the lowest value of a map is not known: distances begin at 0
                low = min(finite) if level == "image" else 0.0
            beyond = high - self._threshold(row, level)
            beyond = threshold - low if math.isnan(beyond) else beyond
            self.table[row, COLUMNS[level][:2]] = low, max(*finite, threshold + beyond)

    def _fitted_record(self, product: str | None) -> ThresholdRecord:
        record = self.record(product)
        if self._lacks_range(self.row(product)):
            raise ValueError(NO_RANGE)
        if record is None or math.isnan(record.fitted):
            raise ValueError(
                f"The file does not record which images the threshold of {self._name_of(product)} comes from; validate "
                "the checkpoint and export it again, fit the threshold on images (command fit), or set a --threshold."
            )
        return record

    def _lacks_range(self, row: int) -> bool:
        return self.normalized and math.isnan(self._range(row, "image")[0])

    def _name_of(self, product: str | None) -> str:
        return self.names[self.row(product)]

    def _key(self, product: str | None) -> str:
        """Return the key of a product in ``records``."""
        return self._name_of(product) if self.products else UNKNOWN
