# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

"""Category recognition: the nearest category mean in the space of pooled backbone features.

With it, one model for many categories needs no name at inference. Each category is summarised by the mean of its
training features. Channels are divided by their spread within a category, so that a channel with large but
uninformative values does not outvote an informative one with small values. An image farther from every mean than any
training image is reported as an unseen category, not by the nearest wrong name.
"""

from typing import Any

import torch
from torch import Tensor, nn

MARGIN = 1.75
"""Largest distance at which an image is recognised, in units of the farthest training image's distance to the mean.

Measured with pooled MobileNetV2 features (stride 8 and 16) of four real products: the farthest test image, a defective
one, lies at 1.22 radii from the mean of its category, the nearest image of a left-out product at 2.38 radii from any.
"""
ROUNDING = 1e-5
"""Rounding error between features of equal images, as a share of the largest mean; others differ 100 times more."""


def within_category_scale(features: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Return the standard deviation of each channel around its category's mean, all categories weighted equally.

    A category of one image tells nothing about spread and is left out. A channel without spread (constant features, or
    one image in every category) takes the mean spread of the others, or 1.0 if no channel has any.

    Args:
        features: Pooled features, shape (N, C).
        labels: Category index of each, int64, shape (N,).
        means: Category means, shape (K, C).

    Returns:
        Scale of each channel, all positive, shape (C,).
    """
    others = torch.bincount(labels, minlength=len(means)) - 1  # (K,)
    squares = torch.zeros_like(means).index_add_(0, labels, (features - means[labels]).square())  # (K, C)
    variances = squares / others.clamp(min=1).unsqueeze(1)  # (K, C), 0 for one image
    scale = (variances.sum(dim=0) / others.count_nonzero().clamp(min=1)).sqrt()  # (C,)
    spread = scale > 0
    return torch.where(spread, scale, scale[spread].mean()) if spread.any() else torch.ones_like(scale)


def pool(features: Tensor) -> Tensor:
    """Average features ``(B, C, H, W)`` over the image to ``(B, C)``, the input of :class:`CategoryRecogniser`."""
    return features.mean(dim=(2, 3))


class CategoryRecogniser(nn.Module):
    """Nearest category mean in the space of standardised, pooled backbone features, with an index for unseen ones.

    The radius of a category is the largest distance of one of its training images to the mean of its other ones, times
    :data:`MARGIN`. It is at least the upper median over the categories: otherwise a category with few or very uniform
    images would reject its own defective ones. If training shows no spread at all (one image in every category), the
    radius is unknown and no image counts as unseen. With fewer than about 20 images in every category, many test
    images count as unseen; a single small category is served by the others.

    Adding a category fits the recogniser again on features of all categories, of which checkpoints carry a sample.

    Attributes:
        means: Mean feature of each category, shape (K, C); (K, 0) before ``fit``.
        scale: Spread of each channel within a category, shape (C,).
        radius: Distance beyond which an image is not of the category, margin included, shape (K,).

    Example:
        >>> recogniser = CategoryRecogniser()
        >>> features = torch.tensor([[0.0, 0.0], [0.2, 0.0], [5.0, 5.0], [5.0, 5.2]])
        >>> recogniser.fit(features, torch.tensor([0, 0, 1, 1]), num_categories=2)
        >>> recogniser(torch.tensor([[0.1, 0.1], [5.0, 5.1], [90.0, 0.0]]))
        tensor([0, 1, 2])
    """

    means: Tensor
    scale: Tensor
    radius: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.empty(0, 0))
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("radius", torch.empty(0))
        self.register_load_state_dict_pre_hook(_take_shapes_from_state_dict)

    @property
    def fitted(self) -> bool:
        """Whether there are means to compare with; without them every image is unseen."""
        return self.means.numel() > 0

    def reset(self, num_categories: int = 0, num_channels: int = 0) -> None:
        """Discard the fit: every image is unseen (index ``num_categories``) until the next one.

        Args:
            num_categories: Number of categories K to be fitted.
            num_channels: Number of channels C, to make room for a fit that a state dict brings.
        """
        device = self.means.device
        with torch.inference_mode(mode=False):  # load_state_dict cannot write into inference tensors later
            self.means = torch.empty(num_categories, num_channels, device=device)
            self.scale = torch.empty(num_channels, device=device)
            self.radius = torch.full((num_categories,), float("nan"), device=device)

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor, num_categories: int) -> None:
        """Fit means, scale and radius on the training images of all categories.

        Args:
            features: Pooled backbone features of normal images, shape (N, C).
            labels: Category index of each in [0, num_categories), int64, shape (N,).
            num_categories: Number of categories K, each with at least one image.
        """
        features = features.detach().to(self.means.device, torch.float32)
        labels = labels.to(self.means.device)
        counts = torch.bincount(labels, minlength=num_categories)  # (K,)
        sums = features.new_zeros(num_categories, features.shape[1]).index_add_(0, labels, features)
        self.means = sums / counts.unsqueeze(1)  # (K, C)
        means = self.means[labels]  # (N, C)
        rounded = (features - means).abs() <= ROUNDING * self.means.abs().amax()
        features = torch.where(rounded, means, features)
        self.scale = within_category_scale(features, labels, self.means)  # (C,)
        self.radius = MARGIN * self._training_radius(features, labels, counts)  # (K,)

    def forward(self, features: Tensor) -> Tensor:
        """Recognise the category of each image.

        Args:
            features: Pooled backbone features, shape (B, C).

        Returns:
            Category index, int64, shape (B,); K, the number of categories, for an unseen category.
        """
        if not self.fitted:
            return torch.full_like(features[:, 0], len(self.means), dtype=torch.int64)  # (B,)
        distance, nearest = self.distances(features).min(dim=1)  # (B,), (B,)
        recognised = distance <= self.radius[nearest]  # False if the distance is NaN
        return torch.where(recognised, nearest, len(self.means))

    def distances(self, features: Tensor) -> Tensor:
        """Return the distance of each image to each category mean, in units of the spread within a category.

        Args:
            features: Pooled backbone features, shape (B, C).

        Returns:
            Euclidean distances over the standardised channels, >= 0, shape (B, K).
        """
        # Subtract first: |a|^2 + |b|^2 - 2ab would lose precision where categories lie many spreads apart.
        return ((features.float().unsqueeze(1) - self.means) / self.scale).norm(dim=2)  # (B, K, C) -> (B, K)

    def _training_radius(self, features: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """Return each category's largest distance of an image to the mean of its others, >= the upper median: (K,)."""
        distances = ((features - self.means[labels]) / self.scale).norm(dim=1)  # (N,)
        others = (counts - 1).clamp(min=1)
        distances = distances * (counts / others)[labels]  # the mean without the image itself is n/(n-1) times farther
        radius = torch.zeros_like(self.means[:, 0]).scatter_reduce_(0, labels, distances, "amax")  # (K,)
        spread = radius > 0
        if not spread.any():
            return torch.full_like(radius, float("inf"))
        ordered = radius[spread].sort().values
        return radius.clamp(min=float(ordered[len(ordered) // 2]))


def _take_shapes_from_state_dict(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    *_: Any,  # noqa: ANN401
) -> None:
    """Resize the buffers to those of a checkpoint, whose numbers of categories and channels depend on its fit."""
    for name, buffer in list(module.named_buffers(recurse=False)):
        stored = state_dict.get(prefix + name)
        if stored is not None and stored.shape != buffer.shape:
            setattr(module, name, buffer.new_empty(stored.shape))
