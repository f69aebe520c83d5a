# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Sample of a product's features, which stands in for its images once those are gone.

Features of training images are replayed in training. Features of validation images are never trained on: scored again
by a changed network, they show how the scores of unseen images have changed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from anomalib_grad.backbone.frozen import FrozenBackbone
from anomalib_grad.categories.distributed import all_gather
from anomalib_grad.feature_cache import FeatureBatch, features_of
from anomalib_grad.files.configuration import restoring
from anomalib_grad.thresholds.labelled_scores import KnownImage, from_plain, to_plain
from anomalib_grad.torch_model import GradModel, in_eval_mode

from .feature_statistics import evenly_spaced

SAMPLE_KEY = "grad_feature_sample"
"""Checkpoint key of the features of training images."""
VALIDATION_KEY = "grad_judged_sample"
"""Checkpoint key of the features of validation images."""
BATCH = 32
"""Rows in a batch when they are replayed or scored again."""


class ScoredSample(NamedTuple):
    """Sampled validation images of a product.

    Attributes:
        features: Features of each image, flattened to a row: float16, shape (N, F).
        images: The same N images, with scores of the network for which the thresholds were fitted.
    """

    features: Tensor
    images: tuple[KnownImage, ...]


def to_checkpoint(samples: Mapping[str, ScoredSample]) -> dict[str, Any]:
    """Convert samples to plain data."""
    return {name: {"features": one.features, "images": to_plain(one.images)} for name, one in samples.items()}


def from_checkpoint(stored: Any, row_length: int) -> dict[str, ScoredSample]:  # noqa: ANN401  # whatever a file holds
    """Invert :func:`to_checkpoint`; ``None`` is empty, anything else raises LookupError, TypeError or ValueError."""
    found = {}
    for name, one in ({} if stored is None else stored).items():
        features, images = one["features"], from_plain(one["images"])
        if features.dtype != torch.float16 or features.shape != (len(images), row_length):
            raise ValueError(f"it must hold a row of {row_length} values in float16 for each image of {name}")
        found[str(name)] = ScoredSample(features, images)
    return found


class FeatureSample:
    """Keeps backbone features by product name.

    Attributes:
        rows: Features of each product's training images, one flattened row per image: float16, shape (N, F).
        validation: Features and scores of each product's validation images.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}
        self.validation: dict[str, ScoredSample] = {}

    def __reduce__(self) -> "tuple[type[FeatureSample], tuple[()]]":
        """Pickle without the rows: exports do not need them."""
        return FeatureSample, ()

    def __deepcopy__(self, memo: dict[int, object]) -> "FeatureSample":
        """Share the rows with the copy, since they never change."""
        copy = FeatureSample()
        copy.rows, copy.validation = dict(self.rows), dict(self.validation)
        return copy

    def load(self, stored: Any, row_length: int, validation: Any = None) -> None:  # noqa: ANN401  # whatever a file holds
        """Load the samples of a checkpoint.

        Args:
            stored: The saved :attr:`rows`; ``None`` if there were none.
            row_length: Number F of values in a row.
            validation: Plain data of :attr:`validation`; ``None`` if there were none.

        Raises:
            CheckpointConfigurationError: If ``stored`` or ``validation`` is anything else.
        """
        rows = {} if stored is None else stored
        if not isinstance(rows, dict) or not all(
            isinstance(name, str) and isinstance(part, Tensor) and part.dtype == torch.float16
            and part.ndim == 2 and len(part) and part.shape[1] == row_length  # noqa: PLR2004
            for name, part in rows.items()
        ):  # fmt: skip
            with restoring(f"{SAMPLE_KEY!r}"):
                raise ValueError(f"it must hold rows of {row_length} values in float16 for each product")
        with restoring(f"{VALIDATION_KEY!r}"):
            self.rows, self.validation = dict(rows), from_checkpoint(validation, row_length)

    def keep(self, names: Sequence[str]) -> None:
        """Drop all products except ``names``."""
        self.rows = {name: part for name, part in self.rows.items() if name in names}
        self.validation = {name: part for name, part in self.validation.items() if name in names}

    def draw(self, names: Sequence[str], count: int) -> FeatureBatch:
        """Draw rows of training images at random with replacement; every product is equally likely.

        Args:
            names: One or more products that have rows.
            count: Number B of rows.
        """
        products = torch.randint(len(names), (count,)).tolist()
        chosen = [names[product] for product in products]
        picks = [self.rows[name][int(torch.randint(len(self.rows[name]), ()))] for name in chosen]
        return FeatureBatch(torch.stack(picks), chosen)

    def batches(self, names: Sequence[str]) -> list[FeatureBatch]:
        """Return all rows of some products, in batches."""
        return [FeatureBatch(part, [name] * len(part)) for name in names for part in self.rows[name].split(BATCH)]


class ValidationSampler:
    """Collects features of chosen validation images as validation computes them."""

    def __init__(self) -> None:
        self._wanted: set[str] = set()
        self._found: dict[str, tuple[str, Tensor, KnownImage]] = {}

    def choose(self, trainer: pl.Trainer, most: int) -> int:
        """Choose up to ``most`` images of each product at even intervals; return the largest count of any product."""
        self._wanted, self._found = set(), {}
        samples = getattr(getattr(trainer.val_dataloaders, "dataset", None), "samples", None)
        if samples is None or "category" not in samples:
            return 0
        paths = [evenly_spaced(list(own), most) for _, own in samples.groupby("category")["image_path"]]
        self._wanted = {str(path) for own in paths for path in own}
        return max(map(len, paths), default=0)

    def note(self, batch: Any, maps: Sequence[Tensor]) -> None:  # noqa: ANN401  # anomalib's
        """Store the backbone's ``maps`` of the chosen images in a batch, without scores yet."""
        names = getattr(batch, "category", None)
        places = [place for place, path in enumerate(batch.image_path or ()) if str(path) in self._wanted]
        if names is None or not places:
            return
        rows = FrozenBackbone.flatten([part[places] for part in maps]).half().cpu()
        for place, row in zip(places, rows, strict=True):
            path, truth = str(batch.image_path[place]), bool(batch.gt_label[place])
            self._found[path] = names[place], row, KnownImage.of(path, 0.0, 0.0, anomalous=truth)

    def take(self) -> dict[str, ScoredSample]:
        """Return the samples of all processes and clear them; drop a product whose features overflow float16."""
        found = {path: image for part in all_gather(self._found) for path, image in part.items()}
        self._wanted, self._found = set(), {}
        own: defaultdict[str, list[tuple[Tensor, KnownImage]]] = defaultdict(list)
        for _, (name, row, image) in sorted(found.items(), key=itemgetter(0)):
            own[name].append((row, image))
        samples = {}
        for name, pairs in own.items():
            rows, images = zip(*pairs, strict=True)
            features = torch.stack(rows)
            if features.isfinite().all():
                samples[name] = ScoredSample(features, images)
        return samples


Noting = ValidationSampler
"""Former name, by which torch exports of before find the class."""


@torch.no_grad()
def rescore(network: GradModel, sample: ScoredSample, category: int) -> ScoredSample:
    """Replace the images' scores by those that a network computes, given the index of their category."""
    device = network.anomaly_map_generator.map_height.device
    values: list[tuple[float, float]] = []
    with in_eval_mode(network):
        for rows in sample.features.split(BATCH):
            features = features_of(FeatureBatch(rows), network.backbone)
            found: Any = network(features=features, category=torch.full((len(rows),), category, device=device))
            values += zip(found.pred_score.tolist(), found.anomaly_map.flatten(1).amax(dim=1).tolist(), strict=True)
    scored = zip(sample.images, values, strict=True)
    return sample._replace(
        images=tuple(KnownImage.of(image.name, *pair, anomalous=image.anomalous) for image, pair in scored)
    )
