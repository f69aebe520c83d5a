# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Baseline of the comparison: cosine distance from each cell's features to the nearest training cell."""

from typing import Any, ClassVar

import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from torch import Tensor, nn
from torch.nn import functional

from anomalib_grad.anomaly_map import AnomalyMapGenerator
from anomalib_grad.backbone import FrozenBackbone
from anomalib_grad.data.pre_processor import GradPreProcessor
from anomalib_grad.recipes import find_recipe


def unit_cells(features: Tensor) -> Tensor:
    """Return the cells of features ``(B, C, h, w)``, normalised to unit length: ``(B, h * w, C)``."""
    return functional.normalize(features.flatten(2).transpose(1, 2), dim=2)


def distance_to(known: Tensor, features: Tensor) -> Tensor:
    """Return the cosine distance ``(B, 1, h, w)`` of features ``(B, C, h, w)`` to the nearest known cell ``(N, C)``."""
    nearest = (unit_cells(features) @ known.T).amax(dim=2)
    return (1 - nearest).clamp(min=0).unflatten(1, features.shape[2:]).unsqueeze(1)


class NearestModel(nn.Module):
    """Cosine distance to the nearest known cell, with the anomaly map of the recipe ``plus``."""

    def __init__(self, backbone: FrozenBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("known", torch.empty(0, backbone.channels))
        settings = find_recipe("plus").settings.map
        self.generator = AnomalyMapGenerator(
            backbone.feature_size,
            backbone.image_size,
            settings.smoothing_window,
            settings.score_window,
            settings.score_share,
        )

    def forward(self, images: Tensor) -> InferenceBatch:
        """Map images ``(B, 3, H, W)`` to maps ``(B, 1, H, W)`` and scores ``(B,)``."""
        maps, scores = self.generator(distance_to(self.known, self.backbone(images)))
        return InferenceBatch(anomaly_map=maps, pred_score=scores)


class NearestNeighbours(MemoryBankMixin, AnomalibModule):
    """Nearest neighbours on frozen features, without training; the kept cells are chosen at random.

    Args:
        backbone: timm name.
        pre_trained: Weight file.
        image_size: Height and width in pixels.
        layers: As in Grad.
        cells: Number of cells of the training images to keep.
    """

    def __init__(  # as anomalib's models
        self,
        backbone: str,
        pre_trained: Any = True,  # noqa: ANN401
        image_size: tuple[int, int] = (224, 224),
        layers: Any = "coarsest",  # noqa: ANN401
        cells: int = 20_000,
        **components: Any,  # noqa: ANN401
    ) -> None:
        network = FrozenBackbone(backbone, layers, pre_trained, image_size)
        pre_processor = GradPreProcessor.from_statistics(network.image_size, network.mean, network.std)
        super().__init__(**{"pre_processor": pre_processor, **components})
        self.model = NearestModel(network)
        self.number = cells
        self._rows: list[Tensor] = []

    def training_step(self, batch: Batch, *_: int) -> Tensor:
        """Collect the cells of a batch."""
        with torch.no_grad():
            self._rows.append(unit_cells(self.model.backbone(batch.image)).flatten(0, 1))
        return torch.zeros((), requires_grad=True, device=self.device)

    def fit(self) -> None:
        """Keep a random sample of the collected cells."""
        rows = torch.cat(self._rows)
        self.model.known = rows[torch.randperm(len(rows))[: self.number]].clone()
        self._rows.clear()

    def validation_step(self, batch: Batch, *_: int) -> Batch:
        """Predict on a batch."""
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self) -> None:
        """Return no optimiser: nothing is trained."""

    learning_type = LearningType.ONE_CLASS  # from normal images only
    trainer_arguments: ClassVar[dict[str, Any]] = {"max_epochs": 1, "num_sanity_val_steps": 0}
