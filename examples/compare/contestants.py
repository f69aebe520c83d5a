# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Models to compare: rows with known recommendations, and any other image model of anomalib by its class name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import lightning.pytorch as pl
from anomalib import models
from anomalib.models import AnomalibModule, get_model
from anomalib.models.image.dinomaly import lightning_model as dinomaly
from anomalib.models.image.inp_former import lightning_model as inp_former
from anomalib.pre_processing import PreProcessor
from local_weights import Served
from nearest import NearestNeighbours
from torchvision.transforms.v2 import CenterCrop, Compose, Resize, Transform

from anomalib_grad import Grad
from anomalib_grad.backbone.frozen import DEFAULT_BACKBONE

MOBILENET, DINO = "mobilenetv2_100", "vit_small_patch14_dinov2"
ON_MOBILENET = {"backbone": MOBILENET, "layers": ["blocks.2", "blocks.4"]}
OURS: dict[str, type[AnomalibModule]] = {"Grad": Grad, "NearestNeighbours": NearestNeighbours}
SCHEDULED = {"Dinomaly": dinomaly, "InpFormer": inp_former}
WARM_UP = 0.1


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        model: Name of the class, in anomalib or this package.
        arguments: Arguments of the model, except its image size.
        encoder: timm name of the encoder.
        recommended: Image size, training and batch size that paper and anomalib's documentation recommend.
        size: Side of the images in pixels, if it differs from the command line's.
        trains: Whether the model learns in steps; a memory bank or a statistic reads every image once.
        length: Training length as arguments of the Engine, if the model does not set it by itself.
        bank: Cells per image of 224 pixels, for models that keep a share of all cells.
    """

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    encoder: str = ""
    recommended: str = "see the model's documentation"
    size: int | None = None
    trains: bool = True
    length: Mapping[str, int] = field(default_factory=dict)
    bank: float | None = None


ROWS = {
    "Grad plus, MobileNetV2": Row(
        "Grad", {"recipe": "plus", "backbone": MOBILENET}, MOBILENET, "320 px, 2000 steps of 16", size=320
    ),
    "Grad fast, MobileNetV2": Row("Grad", {"recipe": "fast", **ON_MOBILENET}, MOBILENET, "224 px, 300 steps of 16"),
    "PaDiM, MobileNetV2": Row(
        "Padim", {**ON_MOBILENET, "n_features": 100}, MOBILENET, "256 px, one pass, 100 channels", trains=False
    ),
    "PatchCore, MobileNetV2": Row(
        "Patchcore", ON_MOBILENET, MOBILENET, "256 px cropped to 224, 1 % to 25 % of all cells", trains=False, bank=784
    ),
    "nearest neighbours, DINOv2-S": Row(
        "NearestNeighbours",
        {"backbone": DINO},
        DINO,
        "20,000 cells by chance, three quarters of the depth",
        trains=False,
    ),
    "PatchCore, DINOv2-S": Row(
        "Patchcore",
        {"backbone": DINO, "layers": ["blocks.5", "blocks.8"]},
        DINO,
        "no published setting for this encoder; 1 % to 25 % of all cells",
        trains=False,
        bank=256,
    ),
    "AnomalyDINO, DINOv2-S": Row(
        "AnomalyDINO", {"encoder_name": DINO}, DINO, "448 or 672 px, all cells, one product; anomalib 252", trains=False
    ),
    "Dinomaly, DINOv2-S": Row(
        "Dinomaly",
        {"encoder_name": DINO},
        DINO,
        "448 px cropped to 392, 10,000 steps of 16; anomalib 5,000",
        length={"max_steps": 5000},
    ),
    "INP-Former, DINOv2-S": Row(
        "InpFormer",
        {"encoder_name": DINO},
        DINO,
        "448 px cropped to 392, 200 epochs in batches of 16",
        length={"max_epochs": 200},
    ),
    "Grad plus, DINOv2-S": Row("Grad", {"recipe": "plus", "backbone": DINO}, DINO, "224 px, 600 steps of 16"),
}
"""Sources of the recommendations: the papers of PatchCore (2106.08265), PaDiM (2011.08785), AnomalyDINO (2405.14529),
Dinomaly (2405.14325) and INP-Former (2503.02424), and the defaults of anomalib's models."""


def row_of(name: str) -> Row:
    """Return a row by its label, or a new one for any image model of anomalib by its class."""
    return ROWS.get(name) or Row(name)


def resized(transform: Transform, side: int) -> Transform:
    """Return a model's own transform at another size, without crop, so that all pixels of an image are evaluated."""
    steps = transform.transforms if isinstance(transform, Compose) else [transform]
    kept = [Resize((side, side), antialias=True) if isinstance(step, Resize) else step for step in steps]
    return Compose([step for step in kept if not isinstance(step, CenterCrop)])


def build(row: Row, side: int | None, steps: int | None, images: int, cells: int, served: Served) -> Any:  # noqa: ANN401
    """Build a row's model.

    If image side (in pixels) or training steps are ``None``, the model's defaults apply. A memory bank that keeps a
    share of the training images' cells keeps ``cells`` of them. ``served`` has the files of encoders, which only the
    models of this package read here.
    """
    arguments: dict[str, Any] = dict(row.arguments)
    components: dict[str, Any] = {"evaluator": False, "visualizer": False}
    if row.model in OURS:
        backbone = arguments.setdefault("backbone", DEFAULT_BACKBONE)
        arguments["pre_trained"] = backbone == "grad_tiny" or served.file_of(backbone) or False
        if side is not None:
            arguments["image_size"] = (side, side)
        if row.model == "Grad" and steps is not None:
            arguments["training"] = {**arguments.get("training", {}), "steps": steps, "least_passes": 1}
        return OURS[row.model](**arguments, **components)
    if row.bank is not None:
        arguments["coreset_sampling_ratio"] = min(1.0, cells / (images * row.bank * ((side or 224) / 224) ** 2))
    if side is not None and (own := getattr(models, row.model).configure_pre_processor().transform) is not None:
        components["pre_processor"] = PreProcessor(resized(own, side))  # before: some networks are built for a size
    return get_model({"class_path": row.model}, **arguments, **components)


class StepSchedule(pl.Callback):
    """Makes the learning rates of Dinomaly and INP-Former follow steps, as in their papers.

    anomalib 2.7 counts the same schedule in epochs, so that the first epoch has a learning rate of 0.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Advance the schedule after every batch."""
        del pl_module
        for config in trainer.lr_scheduler_configs:
            config.interval = "step"


def callbacks_of(row: Row) -> list[pl.Callback]:
    """Return the callbacks that a row's training needs."""
    return [StepSchedule()] if row.model in SCHEDULED else []


def short_warm_up(row: Row, steps: int | None) -> Any:  # noqa: ANN401  # a patch to enter
    """Return a context manager that shortens the warm-up to a tenth of the training, if that is below 100 steps."""
    if steps is None or row.model not in SCHEDULED:
        return mock.patch.dict({})
    scheduler = SCHEDULED[row.model].TRAINING_CONFIG["scheduler"]
    return mock.patch.dict(scheduler, warmup_iters=min(scheduler["warmup_iters"], round(WARM_UP * steps)))
