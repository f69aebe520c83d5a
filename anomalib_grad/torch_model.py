# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD as a torch model: frozen backbone, head, anomaly map.

"Grid-Based Continuous Normal Representation for Anomaly Detection", arXiv 2402.18293; at ECCV 2024 as CRAD.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from .anomaly_map import AnomalyMapGenerator, dissimilarity, layer_dissimilarity, residual_norm, upsampling_matrix
from .backbone.frozen import DEFAULT_BACKBONE, FrozenBackbone
from .backbone.tiling import describe, in_words
from .components.corruption import Corruption
from .components.head import GradHead
from .components.ignored_regions import IgnoredRegions
from .components.normal_scale import NormalScale
from .components.whitening import Whitening
from .files.configuration import check_weights

if TYPE_CHECKING:
    from anomalib.data.utils.tiler import Tiler

DISTANCES = ("residual", "cosine")
FORMER_DISTANCE = "dissimilarity"
"""``1 - S``, used by checkpoints of an early ``plus``; no longer offered."""


class TrainingOutput(NamedTuple):
    """Features and refined features, which the loss compares; both ``(B, C, H, W)``."""

    features: Tensor
    refined: Tensor


class GradModel(nn.Module):
    """Image in, anomaly map and score out.

    Args:
        backbone: timm model name.
        layers: Names of the backbone's feature maps; ``None`` takes those at strides 8 and 16, ``"coarsest"`` only
            the latter, ``"coarsest_stages"`` the last two stages' of that stride, ``"middle"`` the middle one.
        pre_trained: ``True`` (timm's weights), ``False`` (random) or the path of a local weights file.
        image_size: Height and width of the input in pixels.
        faithful_padding: Pad EfficientNet-B4 as the authors' port does.
        feature_size: Height and width to which all feature maps are resized; ``None`` takes the finest map's.
        whitening: Whiten the features before the head (``components/whitening.py``); not in the paper.
        scaled: Divide distances by the usual one of their category (``components/normal_scale.py``); not in the paper.
        distance: Distance in the anomaly map: ``residual`` is ``||x - x_hat||_2`` (paper), ``cosine`` is
            ``1 - cos(x, f_n)`` of each layer, weighted by its number of channels.
        smoothing_window, score_window: Sides of the average pooling of the anomaly map and of the image score, in
            pixels. Authors: 21 and 32.
        score_share: Share of the anomaly map's pixels: the image score is the mean of this share with the largest
            values, not the maximum over ``score_window``. Authors: ``None``.
        pasted_patches, channel_dropout: Corruption of the features in training (``components/corruption.py``).
            Authors: 0.
        **head: Arguments of :class:`~anomalib_grad.components.head.GradHead`.

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
        layers: Sequence[str] | str | None = None,
        pre_trained: bool | str | Path = True,
        image_size: tuple[int, int] = (224, 224),
        faithful_padding: bool = True,
        feature_size: tuple[int, int] | None = None,
        whitening: bool = False,
        scaled: bool = False,
        distance: str = "residual",
        smoothing_window: int = 21,
        score_window: int = 32,
        score_share: float | None = None,
        pasted_patches: int = 0,
        channel_dropout: float = 0.0,
        **head: float | str | Sequence[int] | None,
    ) -> None:
        super().__init__()
        if distance not in {*DISTANCES, FORMER_DISTANCE}:
            raise ValueError(f"distance must be {' or '.join(DISTANCES)}, got {distance!r}.")
        self.distance = distance
        self.backbone = FrozenBackbone(backbone, layers, pre_trained, image_size, faithful_padding, feature_size)
        self.whitening = Whitening(self.backbone.channels) if whitening else None
        self.corruption = Corruption(pasted_patches, channel_dropout) if pasted_patches or channel_dropout else None
        self.head = GradHead(self.backbone.channels, self.backbone.feature_size, **head)  # type: ignore[arg-type]
        self.anomaly_map_generator = AnomalyMapGenerator(
            self.backbone.feature_size, self.backbone.image_size, smoothing_window, score_window, score_share
        )
        self.normal_scale = NormalScale() if scaled else None
        self.ignored: IgnoredRegions | None = None  # no part of the graph unless the data bring ignore masks

        self.configuration: dict[str, Any] = {
            "backbone": backbone,
            "layers": self.backbone.layers,
            "image_size": list(self.backbone.image_size),
            "faithful_padding": faithful_padding,
            "feature_size": list(self.backbone.feature_size),
            "whitening": whitening,
            "scaled": scaled,
            "distance": distance,
            "smoothing_window": smoothing_window,
            "score_window": score_window,
            "score_share": score_share,
            **self.head.configuration,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle; older exports have neither corruption nor ignored regions."""
        super().__setstate__(state)
        if not hasattr(self, "corruption"):
            self.corruption = self.ignored = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images and of their anomaly maps, in pixels."""
        return self.anomaly_map_generator.image_size

    @property
    def tiler(self) -> "Tiler | None":
        """The backbone's tiler, under the name that anomalib's ``TilerConfigurationCallback`` sets.

        Raises:
            ValueError: If the head was trained with other tiles, or the backbone cannot take these.
        """
        return self.backbone.tiler

    @tiler.setter
    def tiler(self, tiler: "Tiler | None") -> None:
        if describe(tiler) != describe(self.tiler) and not self.head.is_as_drawn():
            raise ValueError(
                f"the model was trained on {in_words(self.tiler)} and would see {in_words(tiler)}: leave the tiles as "
                f"they are, or train a new model."
            )
        self.backbone.tiler = tiler

    def forward(
        self, images: Tensor | None = None, category: Tensor | None = None, *, features: Tensor | None = None
    ) -> TrainingOutput | InferenceBatch:
        """Compare images with their normal representation.

        Args:
            images: Normalised images ``(B, 3, H, W)``.
            category: Index of each image's category in [0, K], int64, shape (B,), for distances scaled per category
                and ignored regions.
            features: The backbone's features ``(B, C, h, w)`` instead of images, if known already.

        Returns:
            In training what the loss compares; in eval an InferenceBatch with ``pred_score`` ``(B,)`` and
            ``anomaly_map`` ``(B, 1, H, W)``. Both are non-negative and in feature units, or unitless if features are
            whitened, distances are scaled, or the distance is not the residual.

        Raises:
            ValueError: If the images have another size than those that the model was built for.
        """
        features = self.backbone(images) if features is None else features  # x: (B, C, h, w)
        if features.shape[-2:] != self.backbone.feature_size:  # as without a pre-processor, which resizes
            cells, own_cells, pixels = (
                f"{height} x {width}"
                for height, width in (features.shape[-2:], self.backbone.feature_size, self.image_size)
            )
            raise ValueError(
                f"the model has {own_cells} cells, but its features of these images have {cells}: give it images of "
                f"{pixels} pixels, or leave out pre_processor, which by default resizes them."
            )
        features = self.head_input(features)
        normal = self.head.normal(self.shown(features))  # f_n: (B, C, h, w)
        refined, similarity = self.head.refine(features, normal)  # x_hat: (B, C, h, w), S: (B, 1, h, w)
        if self.training:
            return TrainingOutput(features, refined)
        distance = self.distance_map(features, normal, refined, similarity)  # (B, 1, h, w)
        if self.ignored is not None:
            distance = self.ignored.weigh(distance, category)
        if self.normal_scale is not None:
            distance = self.normal_scale(distance, category)
        anomaly_map, pred_score = self.anomaly_map_generator(distance)
        if self.ignored is not None:
            anomaly_map = self.ignored.cut(anomaly_map, category)
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)

    def head_input(self, features: Tensor) -> Tensor:
        """Return the backbone's features ``(B, C, h, w)``, whitened if the model whitens."""
        return features if self.whitening is None else self.whitening(features)

    def shown(self, features: Tensor) -> Tensor:
        """Return the head's input ``(B, C, h, w)``, corrupted in training if the model corrupts."""
        return self.corruption(features) if self.training and self.corruption is not None else features

    def distance_map(self, features: Tensor, normal: Tensor, refined: Tensor, similarity: Tensor) -> Tensor:
        """Return the distance ``(B, 1, h, w)`` of features from normal ones, of the kind that the model was given."""
        match self.distance:
            case "cosine":
                return layer_dissimilarity(features, normal, [layer.channels for layer in self.backbone.maps])
            case "dissimilarity":
                return dissimilarity(similarity)
        return residual_norm(features, refined)

    @torch.inference_mode(mode=False)  # a test runs in inference mode, whose tensors cannot be loaded into later
    def ignore(self, kept: Mapping[str, Tensor], categories: Sequence[str]) -> None:
        """Ignore regions in the images of some categories; regions of the others stay. Without any, ignore nothing.

        Args:
            kept: Pixels that are judged, bool, shape (H, W), by category name, or by ``""`` if the model has no
                categories. Names that are not among the categories are skipped.
            categories: Names of the K categories, in the order of their indices.
        """
        if not kept:
            self.ignored = None
            return
        rows = torch.ones(len(categories) + 1, 1, *self.image_size, dtype=torch.bool)
        if self.ignored is not None and self.ignored.kept.shape == rows.shape:
            rows = self.ignored.kept.cpu().clone()
        for row, name in enumerate(categories or [""]):
            if name in kept:
                rows[row] = kept[name]
        self._ignore_all_but(rows)

    def _ignore_all_but(self, kept: Tensor) -> None:
        height, width = map(upsampling_matrix, self.backbone.feature_size, self.image_size)
        self.ignored = IgnoredRegions(kept, (height, width)).to(self.anomaly_map_generator.map_height.device)

    def make_room(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Make room for the categories of a state dict that is about to be loaded; its keys begin with ``prefix``.

        Raises:
            CheckpointConfigurationError: If its masks do not have the size of the images.
        """
        self.ignored = None
        kept = state_dict.get(f"{prefix}ignored.kept")
        if isinstance(kept, Tensor):
            rows = max(len(kept), 1) if kept.ndim else 1
            expected = torch.empty(rows, 1, *self.image_size, dtype=torch.bool, device="meta")  # takes no memory
            check_weights({"ignored.kept": expected}, {"ignored.kept": kept})
            self._ignore_all_but(torch.ones(kept.shape, dtype=torch.bool))
        if self.normal_scale is not None:
            self.normal_scale.make_room(state_dict, f"{prefix}normal_scale.")

    def rearrange(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Rearrange what is stored per category when the categories' names or order change."""
        if self.normal_scale is not None:
            self.normal_scale.rearrange(before, after)
        if self.ignored is not None:
            self._ignore_all_but(self.ignored.rearranged(before, after))


_switching_modes = Lock()
_judging: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Blocks of :func:`in_eval_mode` now running for each model that was in training mode, in whatever threads."""


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for the block, then back into the mode it was in.

    Of threads that share a model the last one puts it back: none is left to judge in training mode.
    """
    with _switching_modes:
        switch = model.training or model in _judging
        if switch:
            _judging[model] = _judging.get(model, 0) + 1
            model.eval()
    try:
        yield
    finally:
        if switch:
            with _switching_modes:
                _judging[model] -= 1
                if not _judging[model]:
                    del _judging[model]
                    model.train()


def network_of(module: nn.Module) -> GradModel:
    """Return the network of the :class:`~anomalib_grad.Grad` that Lightning hands to a callback."""
    return cast("GradModel", module.model)
