# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Recipes: the settings behind ``Grad(recipe="...")``, one table for Python, command line, YAML and documentation."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from .backbone.frozen import DEFAULT_BACKBONE
from .backbone.layers import is_plain_transformer
from .settings import BOTH_LAYERS, MapSettings, MethodSettings, Settings, TrainingSettings
from .torch_model import GradModel
from .training.mse_threshold import resolve_mse_threshold

DEFAULT_RECIPE = "crad"

PUBLISHED = Settings(
    backbone=DEFAULT_BACKBONE,
    layers=BOTH_LAYERS,
    image_size=(224, 224),
    fusion="mobile",
    method=MethodSettings(
        local_resolution=8,
        local_dims=2,
        global_resolution=4,
        global_dims=2,
        jitter_std=0.05,
        jitter_probability=0.5,
        indicator_weight=0.3,
        cosine_weight=0.7,
        whitening=False,
        faithful_padding=True,
    ),
    training=TrainingSettings(
        learning_rate=1e-3,
        grid_learning_rate=0.1,
        weight_decay=0.01,
        lr_schedule="step",
        lr_step=40,
        lr_gamma=0.1,
        warmup_steps=0,
        clip_norm=0.1,
        pasted_patches=0,
        channel_dropout=0.0,
        copies=0,
        turned_below=0,
        hard_mining=False,
        max_epochs=50,
        least_passes=1,
        precision="trainer",
    ),
    map=MapSettings(distance="residual", smoothing_window=21, score_window=32, scaled=False),
)
"""The authors' constants at ECCV 2024, for one or many products."""

QUICK = TrainingSettings(
    learning_rate=3e-3,
    grid_learning_rate=0.3,
    lr_schedule="cosine",
    warmup_steps=20,
    steps=300,
    least_passes=2,
    precision="auto",
)
"""Three times the published learning rates, decayed to 0 over 300 steps whatever the number of images: long training
teaches the model to reconstruct anomalies as well."""


class Recipe(NamedTuple):
    """Named set of settings.

    Attributes:
        name: Name of the recipe.
        summary: Description for the documentation.
        own: Settings that differ from :data:`PUBLISHED`.
        transformer: Settings that differ further on a plain transformer backbone.
    """

    name: str
    summary: str
    own: Settings
    transformer: Settings = Settings()

    @property
    def settings(self) -> Settings:
        """All settings for a convolutional backbone."""
        return self.own.over(PUBLISHED)

    def settings_on(self, backbone: str | None) -> Settings:
        """Return all settings for a timm backbone; ``None`` stands for the recipe's own backbone.

        Raises:
            ValueError: If timm does not know the backbone.
        """
        differs = self.transformer != Settings() and backbone is not None and is_plain_transformer(backbone)
        return self.transformer.over(self.settings) if differs else self.settings


_TABLE = (
    Recipe("crad", "CRAD, ECCV 2024", Settings()),
    Recipe("crad_s", "CRAD-S, ECCV 2024", Settings(fusion="small")),
    Recipe(
        "grad",
        "GRAD, arXiv v1; published: 99.3 image / 97.8 pixel AUROC, one model for all of MVTec AD",
        Settings(fusion="residual", training=TrainingSettings(max_epochs=100)),
    ),
    Recipe("fast", "CRAD-S in few steps: cosine decay, learning rates x 3", Settings(fusion="small", training=QUICK)),
    Recipe(
        "plus",
        "beyond the paper, for products that nobody tuned for",
        Settings(
            image_size=(320, 320),  # shows the backbone more of small defects
            layers="coarsest",  # the deeper layer (stride 16) tells most about them, on its own 20 x 20 cells
            fusion="small",
            method=MethodSettings(num_blocks=4, whitening=True, mse_threshold="auto"),  # k is fitted after whitening
            map=MapSettings(scaled=True, smoothing_window=15, score_share=0.01),
            # Training restores cells under patches pasted from the batch's other images, and dropped channels, hard
            # cells first. Shifted copies teach it to ignore where a part lies; turned ones, where images are few, how.
            training=replace(
                QUICK,
                steps=2000,
                most_passes=150,
                pasted_patches=6,
                channel_dropout=0.1,
                copies=3,
                turned_below=31,
                hard_mining=True,
            ),
        ),
        # Patches of 8, 14, 16 and 32 pixels divide 224. Features cost five times as much as MobileNetV2's; those at
        # half of the depth are the cheapest that tell as much, and localise defects best. Turned copies of few images
        # lose on a transformer what they gain on a CNN.
        transformer=Settings(
            image_size=(224, 224),
            layers="middle",
            training=TrainingSettings(steps=600, most_passes=150, copies=1, turned_below=0),
        ),
    ),
)
RECIPES = {recipe.name: recipe for recipe in _TABLE}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
        ValueError: If there is none; the message lists all names.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]


def build_network(settings: Settings, pre_trained: bool | str | Path) -> GradModel:
    """Build the network from complete settings.

    Raises:
        ValueError: If a setting is out of range or does not suit the backbone.
    """
    complete: Any = settings
    threshold = resolve_mse_threshold(settings.method.mse_threshold, complete.backbone)
    return GradModel(
        backbone=complete.backbone,
        layers=complete.layers,
        pre_trained=pre_trained,
        image_size=complete.image_size,
        fusion=complete.fusion,
        **asdict(settings.method) | {"mse_threshold": threshold},
        **asdict(settings.map),
        pasted_patches=complete.training.pasted_patches,
        channel_dropout=complete.training.channel_dropout,
    )


def table() -> str:
    """Return the recipes as the markdown table of the README."""
    rows = ["| recipe | fusion | image | training | what it is |", "|---|---|---|---|---|"]
    for name, recipe in RECIPES.items():
        default = " (default)" if name == DEFAULT_RECIPE else ""
        rows.append(_row(f"`{name}`{default}", recipe.settings, recipe.summary))
        if recipe.transformer != Settings():
            on_transformer = recipe.transformer.over(recipe.settings)
            rows.append(_row(f"`{name}`, plain transformer", on_transformer, "the same on DINOv2 and other plain ViTs"))
    return "\n".join(rows)


def _row(name: str, complete: Settings, summary: str) -> str:
    settings: Any = complete
    training, blocks = settings.training, settings.method.num_blocks
    length = f"{training.max_epochs} epochs" if training.steps is None else f"{training.steps} steps"
    length += f", {training.most_passes} epochs at most" if training.most_passes else ""
    fusion = f"{settings.fusion}, {blocks} blocks" if blocks is not None else settings.fusion
    height, width = settings.image_size
    return f"| {name} | {fusion} | {height} x {width} | {length} | {summary} |"
