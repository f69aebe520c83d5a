# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Variants of training that the study tries and the package does not have, because they did not pay."""

from typing import Any

import torch
from anomalib.data.utils.tiler import Tiler
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from anomalib_grad import Grad
from anomalib_grad.components.grid import ContinuousGrid


class FeatureDropout(Grad):
    """Sees a tenth of the features' values as zero and has to restore them (Dinomaly's noisy bottleneck)."""

    def training_loss(self, features: Tensor) -> Tensor:
        """Refine clean features by the normal map of noisy ones."""
        head = self.model.head
        normal = head.normal(functional.dropout(features, 0.1))
        return functional.mse_loss(head.refine(features, normal).refined, features)


class Positions(nn.Module):
    """Adds a linear function of the position to every feature."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        axes = [torch.linspace(-1, 1, length) for length in size]
        self.register_buffer("positions", torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0))
        self.positions: Tensor  # (1, 2, h, w)
        self.embedding = nn.Conv2d(2, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to the same shape."""
        return features + self.embedding(self.positions)


class PositionAware(Grad):
    """Local coordinates depend on the position as well, which helps where products are aligned."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Grad's
        super().__init__(*args, **kwargs)
        local = self.model.head.local_representation
        positions = Positions(self.model.backbone.channels, self.model.backbone.feature_size)
        local.coordinates = nn.Sequential(positions, *local.coordinates)


class CosineLoss(Grad):
    """Compares directions instead of values."""

    def training_loss(self, features: Tensor) -> Tensor:
        """Give the mean of ``1 - cos(x_hat, x)`` over cells."""
        return (1 - functional.cosine_similarity(self.model.head(features).refined, features, dim=1)).mean()


class GridDropout(Grad):
    """Learns with a tenth of the cells' values missing from both grids."""

    def on_train_start(self) -> None:
        """Have every look at the cells leave values out."""
        super().on_train_start()
        for grid in self._grids():
            register_parametrization(grid, "cells", nn.Dropout(0.1))

    def on_train_end(self) -> None:
        """Give the cells back whole."""
        for grid in self._grids():
            remove_parametrizations(grid, "cells", leave_parametrized=False)

    def _grids(self) -> list[ContinuousGrid]:
        return [self.model.head.local_representation.grid, self.model.head.global_representation.grid]


class WeightAverage(Grad):
    """Ends with the exponential moving average of the head's weights (EMA)."""

    def on_train_start(self) -> None:
        """Start the average at the first weights."""
        super().on_train_start()
        # outside the module tree: it is no part of the model
        self.averages = [AveragedModel(self.model.head, avg_fn=get_ema_avg_fn(0.98), use_buffers=False)]

    def on_train_batch_end(self, *arguments: Any) -> None:  # noqa: ANN401  # Lightning's
        """Take a step into the average."""
        del arguments
        self.averages[0].update_parameters(self.model.head)

    def on_train_end(self) -> None:
        """Put the average in the place of the last weights."""
        self.model.head.load_state_dict(self.averages[0].module.state_dict())


class SummedGrids(nn.Module):
    """Grids of several resolutions at the same coordinates, summed (Instant-NGP's idea)."""

    def __init__(self, channels: int, resolutions: tuple[int, ...]) -> None:
        super().__init__()
        self.grids = nn.ModuleList(ContinuousGrid(channels, resolution, 2) for resolution in resolutions)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Sample ``(N, 2)`` coordinates: ``(N, C)``."""
        return torch.stack([grid(coordinates) for grid in self.grids]).sum(dim=0)


class MultiResolution(Grad):
    """A local grid of 4, 8 and 16 cells an axis."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Grad's
        super().__init__(*args, **kwargs)
        head = self.model.head
        local = SummedGrids(self.model.backbone.channels, (4, 8, 16))
        cells = [*local.parameters(), head.global_representation.grid.cells]
        head.local_representation.grid = local  # type: ignore[assignment]
        head.grid_parameters = lambda: cells  # type: ignore[method-assign]


class Tiled(Grad):
    """Lets the backbone see four tiles of the image, each as large as the usual image."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Grad's
        super().__init__(*args, **kwargs)
        self.model.tiler = Tiler(tile_size=224, stride=224)
