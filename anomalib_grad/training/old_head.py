# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A head as it was, which goes on saying what is normal of its products while a new one learns others.

A few images are too few to learn a product from: a new head would know them by heart, and judge all others anew. What
the old head makes of them is more than they are, the more so where they are covered, turned and mirrored: wherever the
new head answers as the old one does, it judges as that did.
"""

import copy

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from anomalib_grad.components.head import GradHead
from anomalib_grad.torch_model import GradModel


class OldHead:
    """Keeps a head, with its weights, as it is.

    Attributes:
        head: The head; ``None`` where nothing is kept.
    """

    def __init__(self) -> None:
        self.head: GradHead | None = None

    def __reduce__(self) -> "tuple[type[OldHead], tuple[()]]":
        """Leave the head out of exports, which are not trained."""
        return OldHead, ()

    def keep(self, head: GradHead | None) -> None:
        """Keep a copy of a head, in the place of what was kept."""
        self.head = None if head is None else copy.deepcopy(head).eval().requires_grad_(requires_grad=False)

    def drift(self, network: GradModel, features: Tensor) -> Tensor:
        """How far a network's head has come from this one: the mean squared difference of their normal maps.

        Args:
            network: In training, so that it corrupts what its head is shown; this one is shown the same.
            features: The backbone's features ``(B, C, h, w)``.

        Raises:
            RuntimeError: If no head is kept.
        """
        if self.head is None:
            raise RuntimeError("there is no old head to compare with: keep one first.")
        shown = network.shown(turned(network.head_input(features)))
        with torch.no_grad():
            head = self.head.to(next(network.head.parameters()))  # where the network is, and as precise
            expected = head.normal(shown)
        return functional.mse_loss(network.head.normal(shown).float(), expected.float())


def turned(features: Tensor) -> Tensor:
    """Turn and mirror features ``(B, C, h, w)`` at random, all alike, by right angles that keep their shape."""
    step = 1 if features.shape[2] == features.shape[3] else 2
    quarters, mirrored = step * int(torch.randint(4 // step, ())), bool(torch.randint(2, ()))
    features = torch.rot90(features, quarters, (2, 3))
    return features.flip(3) if mirrored else features


def fix_statistics(head: GradHead) -> None:
    """Have batch normalisation in training go by the statistics that it has learnt, as it does in eval.

    Those of a batch are of other products, so that a head with the old weights would not answer as the old head does.
    """
    for module in head.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
