# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Features of a few images of each product, which stand for its images once those are gone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_grad.feature_cache import FeatureBatch
from anomalib_grad.files.configuration import restoring

from .judged_sample import JUDGED, Judged, from_checkpoint

SAMPLE = "grad_feature_sample"
"""Where a checkpoint has the rows."""
BYTES = 2
"""Of a value in float16."""


class FeatureSample:
    """Keeps rows of the backbone's features by the name of their product.

    Attributes:
        rows: Features of a product's training images, each image's maps flattened to a row: float16, shape (N, F).
        judged: Features of its validation images.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}
        self.judged: dict[str, Judged] = {}

    def __reduce__(self) -> "tuple[type[FeatureSample], tuple[()]]":
        """Leave the rows out of exports, which are not trained."""
        return FeatureSample, ()

    def __deepcopy__(self, memo: dict[int, object]) -> "FeatureSample":
        """Copy the rows, which never change, with the model."""
        copy = FeatureSample()
        copy.rows, copy.judged = dict(self.rows), dict(self.judged)
        return copy

    def load(self, stored: object, row_length: int, judged: object = None) -> None:
        """Take what a checkpoint brings.

        Args:
            stored: What :attr:`rows` was; ``None`` where there were none.
            row_length: Values F of a row.
            judged: Plain data of :attr:`judged`; ``None`` where there were none.

        Raises:
            CheckpointConfigurationError: If it is anything else.
        """
        rows = {} if stored is None else stored
        if not isinstance(rows, dict) or not all(
            isinstance(name, str) and isinstance(part, Tensor) and part.dtype == torch.float16
            and part.ndim == 2 and len(part) and part.shape[1] == row_length  # noqa: PLR2004
            for name, part in rows.items()
        ):  # fmt: skip
            with restoring(f"{SAMPLE!r}"):
                raise ValueError(f"it must hold rows of {row_length} values in float16 for each product")
        with restoring(f"{JUDGED!r}"):
            kept = from_checkpoint(judged, row_length)
        self.rows, self.judged = dict(rows), kept

    def keep(self, names: Sequence[str]) -> None:
        """Forget all products but some."""
        self.rows = {name: part for name, part in self.rows.items() if name in names}
        self.judged = {name: part for name, part in self.judged.items() if name in names}

    def draw(self, names: Sequence[str], count: int) -> FeatureBatch:
        """Draw rows at random, with replacement, from products that come equally often on average.

        Args:
            names: Products of which there are rows, at least one.
            count: Number B of rows.
        """
        products = torch.randint(len(names), (count,)).tolist()
        chosen = [names[product] for product in products]
        picks = [self.rows[name][int(torch.randint(len(self.rows[name]), ()))] for name in chosen]
        return FeatureBatch(torch.stack(picks), chosen)

    def batches(self, names: Sequence[str], size: int) -> list[FeatureBatch]:
        """All rows of some products, in batches of at most ``size``."""
        return [FeatureBatch(part, [name] * len(part)) for name in names for part in self.rows[name].split(size)]
