# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD as a torch model: frozen backbone, head, anomaly map.

"Grid-Based Continuous Normal Representation for Anomaly Detection", arXiv 2402.18293; at ECCV 2024 as CRAD.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalib.data import InferenceBatch
from torch import Tensor, nn

from .anomaly_map import AnomalyMapGenerator, residual_norm
from .backbone import DEFAULT_BACKBONE, FrozenBackbone
from .components import GlobalRepresentation, LocalRepresentation
from .head import GradHead

if TYPE_CHECKING:
    from anomalib.data.utils.tiler import Tiler


class TrainingOutput(NamedTuple):
    """What the loss compares; both ``(B, C, H, W)``."""

    features: Tensor
    refined: Tensor


class GradModel(nn.Module):
    """Image in, anomaly map and score out.

    Args:
        backbone: timm model name.
        layers: Names of the backbone's feature maps; ``None`` takes those at strides 8 and 16.
        pre_trained: ``True`` (timm's weights), ``False`` (random) or the path of a local weights file.
        image_size: Height and width of the input in pixels.
        faithful_padding: Pad EfficientNet-B4 as the authors' port does.
        smoothing_window, score_window: Average poolings of the anomaly map and of the image score, in pixels.
            Authors: 21 and 32.
        **head: Arguments of :class:`~anomalib_grad.head.GradHead`.

    Raises:
        ValueError: If an argument is out of range; the message says what is possible.

    Example:
        >>> model = GradModel("mobilenetv2_100", pre_trained=False, fusion="small").eval()
        >>> prediction = model(torch.rand(2, 3, 224, 224))
        >>> prediction.anomaly_map.shape
        torch.Size([2, 1, 224, 224])
    """

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        layers: Sequence[str] | None = None,
        pre_trained: bool | str | Path = True,
        image_size: tuple[int, int] = (224, 224),
        faithful_padding: bool = True,
        smoothing_window: int = 21,
        score_window: int = 32,
        **head: float | str | Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.backbone = FrozenBackbone(backbone, layers, pre_trained, image_size, faithful_padding)
        self.head = GradHead(self.backbone.channels, self.backbone.feature_size, **head)  # type: ignore[arg-type]
        self.anomaly_map_generator = AnomalyMapGenerator(
            self.backbone.feature_size, image_size, smoothing_window, score_window
        )

        self.configuration: dict[str, Any] = {
            "backbone": backbone,
            "layers": self.backbone.layers,
            "image_size": list(image_size),
            "faithful_padding": faithful_padding,
            "smoothing_window": smoothing_window,
            "score_window": score_window,
            **self.head.configuration,
        }

    @property
    def local_representation(self) -> LocalRepresentation:
        """The head's local representation."""
        return self.head.local_representation

    @property
    def global_representation(self) -> GlobalRepresentation:
        """The head's global representation."""
        return self.head.global_representation

    @property
    def tiler(self) -> "Tiler | None":
        """The backbone's tiler, under the name where anomalib's ``TilerConfigurationCallback`` sets it."""
        return self.backbone.tiler

    @tiler.setter
    def tiler(self, tiler: "Tiler | None") -> None:
        self.backbone.tiler = tiler

    def forward(self, images: Tensor) -> TrainingOutput | InferenceBatch:
        """Process normalised images ``(B, 3, H, W)``.

        Returns:
            In training what the loss compares; in eval an InferenceBatch with ``pred_score`` ``(B,)`` and
            ``anomaly_map`` ``(B, 1, H, W)``, both in feature units, non-negative.
        """
        features = self.backbone(images)  # x: (B, C, h, w)
        if self.training:
            return TrainingOutput(features, self.head(features))
        return self.predict(features)

    def predict(self, features: Tensor) -> InferenceBatch:
        """Score features ``(B, C, h, w)`` of the backbone."""
        anomaly_map, pred_score = self.anomaly_map_generator(residual_norm(features, self.head(features)))
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)
