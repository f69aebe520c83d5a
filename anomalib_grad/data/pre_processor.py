# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-processor of anomalib with an antialiased resize that can be exported.

anomalib trains on antialiased images but exports a resize without antialiasing, so an exported model sees other pixels
than in training. ``interpolate(antialias=True)`` cannot be exported either: OpenVINO computes it differently.
:class:`~anomalib_grad.data.resizing.AntialiasedResize` gives the same pixels in torch, ONNX and OpenVINO.
"""

from collections.abc import Callable
from typing import Any, cast

import lightning.pytorch as pl
from anomalib.data import AnomalibDataModule
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize, Transform

from .resizing import AntialiasedResize, resized_to

DEFAULT_IMAGE_SIZE = (224, 224)


def exportable(transform: Transform | nn.Module) -> nn.Module:
    """Replace each bilinear antialiased resize to a fixed size in ``transform`` by :class:`AntialiasedResize`."""
    if isinstance(transform, Compose):
        return nn.Sequential(*(exportable(step) for step in transform.transforms))
    size = resized_to(transform)
    if size is not None:
        return AntialiasedResize(size)
    return cast("nn.Module", get_exportable_transform(transform))


class GradPreProcessor(PreProcessor):
    """Resize to the model's input size and normalise, with the same pixels in process and in every export.

    Args:
        transform: Transform of the training, validation, test and predict batches; ``None`` for none.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self._set_export_transform()

    @classmethod
    def from_statistics(
        cls,
        image_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> "GradPreProcessor":
        """Build the default: resize directly to ``image_size`` (no crop, no kept aspect ratio), then normalise."""
        return cls(Compose([Resize(image_size, antialias=True), Normalize(mean=list(mean), std=list(std))]))

    def load_checkpoint_config(self, config: dict) -> None:
        """Restore the transform saved in a checkpoint."""
        super().load_checkpoint_config(config)
        self._set_export_transform()

    def _set_export_transform(self) -> None:
        self.export_transform = None if self.transform is None else exportable(self.transform)


def resize_as_now(trainer: pl.Trainer | None) -> None:
    """Make data that are already set up resize as the model's current pre-processor does."""
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, AnomalibDataModule):
        datamodule._update_augmentations()


class ConfigurePreProcessor:
    """``Grad.configure_pre_processor``: anomalib's hook to get a pre-processor for another image size.

    On the class it normalises as the default backbone expects, on a model as that model's backbone does.
    """

    def __get__(self, model: Any, owner: type) -> Callable[..., GradPreProcessor]:  # noqa: ANN401  # whose class this is
        """Return the function ``configure_pre_processor(image_size=None)``, image size in pixels."""
        network = getattr(model, "model", None)  # none on the class, nor while a model is being built
        own_size, mean, std = DEFAULT_IMAGE_SIZE, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        if network:
            own_size, mean, std = network.backbone.image_size, network.backbone.mean, network.backbone.std
        return lambda image_size=None: GradPreProcessor.from_statistics(image_size or own_size, mean, std)
