# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""INT8 quantisation of exported models with NNCF.

The backbone and the fusion blocks, nearly all of the computation, run in INT8. The rest is too sensitive: coordinates
select places in a grid, and the anomaly map is the small difference between the features and the output of the fusion's
last convolution. Rounding that convolution alone costs two points of image AUROC. Weights are less sensitive: those of
the whole fusion and the grids may be rounded.
"""

import logging
from collections.abc import Iterable
from typing import Any

import nncf
import openvino as ov
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.deploy import OpenVINOInferencer
from anomalib.metrics import F1Score
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchmetrics import Metric

from .frames import input_size
from .quiet import only_warnings

logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 300  # NNCF's default and anomalib's advice

EXACT = nncf.IgnoredScope(patterns=[r"^(?!model\.(backbone|head\.fusion\.blocks)[./]).*"])
"""Nodes that compute in floating point: all but those that the export named after backbone or fusion blocks."""

EXACT_WEIGHTS = nncf.IgnoredScope(patterns=[r"^(?!model\.(backbone|head\.fusion|head\.\w+\.grid)[./]).*"])
"""Nodes whose weights stay in floating point: all but those of the backbone, the fusion and the grids."""

ATTENTION = {"ScaledDotProductAttention", "Softmax"}
"""Operations that only backbones with attention have: attention as one operation, or decomposed."""


def compress_weights(model: ov.Model) -> ov.Model:
    """Store weights in 8 bits; the computation stays in floating point."""
    with only_warnings("nncf"):
        return nncf.compress_weights(model, ignored_scope=EXACT_WEIGHTS)


def quantize(model: ov.Model, datamodule: AnomalibDataModule | None) -> ov.Model:
    """Quantise to 8 bits, with ranges observed on validation images (anomalib's choice of data).

    Args:
        model: Exported model.
        datamodule: Calibration data; at most 300 validation images are used, evenly spaced.

    Raises:
        ValueError: If there is no datamodule, or it has no validation images.
    """
    images = calibration_images(model, datamodule)
    with only_warnings("nncf"):
        return nncf.quantize(
            model, images, subset_size=CALIBRATION_IMAGES, ignored_scope=EXACT, model_type=architecture(model)
        )


def quantize_with_accuracy_control(
    model: ov.Model,
    datamodule: AnomalibDataModule | None,
    metric: Metric | None = None,
    max_drop: float = 0.01,
) -> ov.Model:
    """Quantise to 8 bits, except where a metric on the test images (anomalib's choice of data) would drop too far.

    Args:
        model: Exported model.
        datamodule: Data for calibration and test.
        metric: anomalib metric, higher is better; image F1 score if ``None``.
        max_drop: Largest acceptable drop of the metric, in [0, 1].

    Raises:
        ValueError: If there is no datamodule, it has no validation images, or ``max_drop`` is out of range.
        TypeError: If ``metric`` is not a metric object.
    """
    if not 0 <= max_drop <= 1:
        raise ValueError(f"max_drop must be from 0 to 1, got {max_drop}.")
    metric = F1Score(fields=["pred_label", "gt_label"]) if metric is None else metric
    if not isinstance(metric, Metric):
        raise TypeError(f"Pass a metric object such as anomalib.metrics.AUROC(...), got {metric!r}.")
    calibration = calibration_images(model, datamodule)

    def validate(compiled: ov.CompiledModel, batches: Iterable[ImageBatch]) -> float:
        metric.reset()  # NNCF validates many times, also on single batches
        for batch in batches:
            metric.update(predict_batch(compiled, batch, input_size(model)))
        return float(metric.compute())

    with only_warnings("nncf"):
        return nncf.quantize_with_accuracy_control(
            model,
            calibration,
            nncf.Dataset(datamodule.test_dataloader()),  # type: ignore[union-attr]  # it has calibrated
            validate,
            max_drop=max_drop,
            subset_size=CALIBRATION_IMAGES,
            ignored_scope=EXACT,
            model_type=architecture(model),
        )


def architecture(model: ov.Model) -> nncf.ModelType | None:
    """Return NNCF's model type: transformer if the graph has attention, else ``None``.

    A few channels of a transformer have so large values that rounding erases the others, unless NNCF equalises them
    first (SmoothQuant, arXiv 2211.10438).
    """
    attends = any(op.get_type_name() in ATTENTION for op in model.get_ops())
    return nncf.ModelType.TRANSFORMER if attends else None


def calibration_images(model: ov.Model, datamodule: AnomalibDataModule | None) -> nncf.Dataset:
    """Return evenly spaced validation images for calibration: the first ones would all show the first categories.

    Returns:
        At most 300 images, one per batch, since their sizes may differ.

    Raises:
        ValueError: If there is no datamodule, or it has no validation images.
    """
    images = images_of(datamodule)
    if len(images) < CALIBRATION_IMAGES:
        logger.warning("Calibrating INT8 on %d validation images; %d are recommended.", len(images), CALIBRATION_IMAGES)
    chosen = torch.linspace(0, len(images) - 1, min(len(images), CALIBRATION_IMAGES)).round().int().tolist()
    workers = datamodule.num_workers  # type: ignore[union-attr]  # it has images
    loader = DataLoader(Subset(images, chosen), num_workers=workers, collate_fn=images.collate_fn)
    size = input_size(model)
    return nncf.Dataset(loader, lambda batch: fit_to_input(batch.image, size).numpy())


def images_of(datamodule: AnomalibDataModule | None) -> Any:  # noqa: ANN401  # any anomalib dataset
    """Return the validation images of a datamodule.

    Raises:
        ValueError: If there is no datamodule, or it has no validation images.
    """
    if datamodule is None:
        raise ValueError("INT8_PTQ and INT8_ACQ calibrate on images: pass a datamodule (--data on the command line).")
    datamodule.setup("fit")
    images = getattr(datamodule, "val_data", ())
    if not len(images):
        raise ValueError(
            f"INT8_PTQ and INT8_ACQ calibrate on validation images, and {type(datamodule).__name__} has none: give it "
            f"val_split_mode='same_as_test' (--data.val_split_mode on the command line), or another datamodule."
        )
    return images


def predict_batch(compiled: ov.CompiledModel, batch: ImageBatch, size: tuple[int, int] | None) -> ImageBatch:
    """Return a compiled model's predictions with the ground truth, as anomalib's metrics expect them."""
    predicted = OpenVINOInferencer.post_process(compiled(fit_to_input(torch.as_tensor(batch.image), size).numpy()))
    values: dict[str, Any] = {name: torch.from_numpy(value.copy()) for name, value in predicted.items()}
    gt_mask = batch.gt_mask
    if gt_mask is not None and "anomaly_map" in values:  # the model's maps have the model's size, not the image's
        gt_mask = functional.interpolate(gt_mask[:, None].float(), values["anomaly_map"].shape[-2:])[:, 0].bool()
    return ImageBatch(image=batch.image, gt_label=batch.gt_label, gt_mask=gt_mask, **values)


def fit_to_input(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize images ``(B, 3, H, W)`` to the model's fixed input size, if it has one."""
    if size is None or images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size, mode="bilinear", antialias=True)
