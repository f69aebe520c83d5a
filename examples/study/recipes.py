# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes that the study compares: how each is trained, and how it scores."""

from dataclasses import dataclass, field
from typing import Any

from variants import (
    CosineLoss,
    FeatureDropout,
    GridDropout,
    MultiResolution,
    PositionAware,
    Tiled,
    WeightAverage,
)

from anomalib_grad import Grad


@dataclass(frozen=True)
class Training:
    """What makes the weights: steps, and the arguments of Grad that differ from the published ``small`` recipe."""

    steps: int
    arguments: dict[str, Any] = field(default_factory=dict)
    precision: str = "bf16-mixed"
    kind: type[Grad] = Grad


@dataclass(frozen=True)
class Recipe:
    """A training, and what is done with its distance map; recipes of one training share its weights."""

    training: Training
    scoring: dict[str, Any] = field(default_factory=dict)


COSINE = {"lr_schedule": "cosine", "warmup_steps": 20}
TRIPLE = {**COSINE, "learning_rate": 3e-3, "grid_learning_rate": 0.3}
FEW = {**TRIPLE, "num_blocks": 4}
LARGE = {**FEW, "image_size": (320, 320), "feature_size": (28, 28)}
"""Features of a larger image, brought to the 28 x 28 cells of the usual one."""
LAYERS = ["blocks.1", "blocks.2", "blocks.4"]
"""MobileNetV2's feature maps at strides 4, 8 and 16."""
SCORED = {"distance": "dissimilarity", "score_share": 0.06, "smoothing_window": 15}
BY_LAYER = {**SCORED, "distance": "cosine"}
SHARE = {**BY_LAYER, "score_share": 0.03}
RESTORING = {**LARGE, "pasted_patches": 3, "hard_mining": True}
"""Patches of other images to restore, hard cells first."""
DEEP = {**RESTORING, "layers": "coarsest", "feature_size": None, "pasted_patches": 6}
"""The layer at stride 16 alone, on its own 20 x 20 cells."""
NOISY = {**DEEP, "channel_dropout": 0.1}
PLUS = {"distance": "cosine", "smoothing_window": 15, "score_window": 1}

FAST = {
    "published (50 epochs)": Recipe(Training(1900, precision="32-true")),
    "cosine, 150 steps": Recipe(Training(150, COSINE, "32-true")),
    "cosine, 300 steps, bf16": Recipe(Training(300, COSINE)),
    "cosine, 300 steps, 4 blocks, bf16": Recipe(Training(300, {**COSINE, "num_blocks": 4})),
    "cosine, 200 steps, rates x 3, bf16": Recipe(Training(200, TRIPLE)),
    "cosine, 300 steps, rates x 3, bf16": Recipe(Training(300, TRIPLE)),
    "cosine, 400 steps, 4 blocks, rates x 3, bf16": Recipe(Training(400, FEW)),
}
"""How the published accuracy is had in less time (the recipe ``fast``)."""

BETTER = {
    "faithful, 130 steps": Recipe(Training(130, TRIPLE)),
    "faithful, 300 steps": Recipe(Training(300, TRIPLE)),
    "faithful, scored as large": Recipe(Training(300, TRIPLE), SCORED),
    "4 blocks": Recipe(Training(300, FEW)),
    "4 blocks, dissimilarity": Recipe(Training(300, FEW), {"distance": "dissimilarity"}),
    "4 blocks, largest 6 %": Recipe(Training(300, FEW), {"score_share": 0.06}),
    "4 blocks, windows 9 and 16": Recipe(Training(300, FEW), {"smoothing_window": 9, "score_window": 16}),
    "4 blocks, scored as large": Recipe(Training(300, FEW), SCORED),
    "4 blocks, 320 px": Recipe(Training(300, LARGE)),
    "large": Recipe(Training(300, LARGE), SCORED),
    "large, largest 3 %": Recipe(Training(300, LARGE), {**SCORED, "score_share": 0.03}),
    "large, largest 10 %": Recipe(Training(300, LARGE), {**SCORED, "score_share": 0.1}),
    "large, smoothing 9": Recipe(Training(300, LARGE), {**SCORED, "smoothing_window": 9}),
    "large, smoothing 21": Recipe(Training(300, LARGE), {**SCORED, "smoothing_window": 21}),
    "large, 11 blocks": Recipe(Training(300, {**LARGE, "num_blocks": 11}), SCORED),
    "large, feature dropout 0.1": Recipe(Training(300, LARGE, kind=FeatureDropout), SCORED),
    "large, positions": Recipe(Training(300, LARGE, kind=PositionAware), SCORED),
    "large, hard mining": Recipe(Training(300, {**LARGE, "hard_mining": True}), SCORED),
    "large, cosine loss": Recipe(Training(300, LARGE, kind=CosineLoss), SCORED),
    "large, weight average": Recipe(Training(300, LARGE, kind=WeightAverage), SCORED),
    "large, layer at stride 4": Recipe(Training(300, {**LARGE, "layers": LAYERS}), SCORED),
    "large, 448 px": Recipe(Training(300, {**LARGE, "image_size": (448, 448)}), SCORED),
    "large, 448 px in 4 tiles": Recipe(Training(300, {**LARGE, "image_size": (448, 448)}, kind=Tiled), SCORED),
    "large, 40 x 40 cells": Recipe(Training(300, {**LARGE, "feature_size": None}), SCORED),
    "large, local grid of 3 dimensions": Recipe(Training(300, {**LARGE, "local_dims": 3}), SCORED),
    "large, local grids of 4, 8 and 16": Recipe(Training(300, LARGE, kind=MultiResolution), SCORED),
    "large, global grid of 8": Recipe(Training(300, {**LARGE, "global_resolution": 8}), SCORED),
    "large, residual over its deviation": Recipe(Training(300, LARGE), {**SCORED, "distance": "standardised"}),
    "large, Mahalanobis residual": Recipe(Training(300, LARGE), {**SCORED, "distance": "mahalanobis"}),
    "cosine": Recipe(Training(300, LARGE), BY_LAYER),
    "cosine, coarsest layer": Recipe(Training(300, LARGE), {**BY_LAYER, "distance": "coarsest"}),
    "cosine, largest 3 %": Recipe(Training(300, LARGE), SHARE),
    "cosine, patches": Recipe(Training(300, {**LARGE, "pasted_patches": 3}), BY_LAYER),
    "restoring": Recipe(Training(600, RESTORING), SHARE),
    "restoring, largest 1 %": Recipe(Training(600, RESTORING), {**SHARE, "score_share": 0.01}),
    "restoring, largest 6 %": Recipe(Training(600, RESTORING), BY_LAYER),
    "restoring, coarsest layer": Recipe(Training(600, RESTORING), {**SHARE, "distance": "coarsest"}),
    "restoring, local grid of 3 dimensions": Recipe(Training(600, {**RESTORING, "local_dims": 3}), SHARE),
    "plus": Recipe(Training(300, NOISY), PLUS),
    "plus, largest 1 %": Recipe(Training(300, NOISY), {**PLUS, "score_share": 0.01}),
    "plus, largest 3 %": Recipe(Training(300, NOISY), {**PLUS, "score_share": 0.03}),
    "plus, smoothing 1": Recipe(Training(300, NOISY), {**PLUS, "smoothing_window": 1}),
    "plus, residual": Recipe(Training(300, NOISY), {**PLUS, "distance": "residual"}),
    "plus, residual without refinement": Recipe(Training(300, NOISY), {**PLUS, "distance": "unrefined"}),
    "plus, 600 steps": Recipe(Training(600, NOISY), PLUS),
    "plus, no dropout": Recipe(Training(300, DEEP), PLUS),
    "plus, no patches": Recipe(Training(300, {**NOISY, "pasted_patches": 0}), PLUS),
    "plus, no hard mining": Recipe(Training(300, {**NOISY, "hard_mining": False}), PLUS),
    "plus, grid dropout 0.1": Recipe(Training(300, NOISY, kind=GridDropout), PLUS),
    "plus, gradients clipped at 1": Recipe(Training(300, {**NOISY, "clip_norm": 1.0}), PLUS),
    "plus, both layers": Recipe(Training(300, {**NOISY, "layers": None, "feature_size": (20, 20)}), PLUS),
    "plus, 28 x 28 cells": Recipe(Training(300, {**NOISY, "feature_size": (28, 28)}), PLUS),
    "plus, 256 px": Recipe(Training(300, {**NOISY, "image_size": (256, 256)}), PLUS),
    "plus, 384 px": Recipe(Training(300, {**NOISY, "image_size": (384, 384)}), PLUS),
    "plus, local grid of 3 dimensions": Recipe(Training(300, {**NOISY, "local_dims": 3}), PLUS),
}
"""What makes the model more accurate (the recipe ``plus``), and what does not."""

GROUPS = {"fast": FAST, "better": BETTER}
