# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation from the old head, which preserves its products while the new head learns others.

A few images are too few to learn a product from: a new head would memorise them, and score all other images
differently. The old head's output carries more than the features themselves, all the more if they are corrupted,
rotated and mirrored. Wherever the new head reproduces that output, it gives the same scores.
"""

import copy

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from anomalib_grad.components.head import GradHead
from anomalib_grad.torch_model import GradModel


class OldHead:
    """Keeps a frozen copy of a head.

    Attributes:
        head: The copy; ``None`` if nothing is kept.
    """

    def __init__(self) -> None:
        self.head: GradHead | None = None

    def __reduce__(self) -> "tuple[type[OldHead], tuple[()]]":
        """Pickle without the head: exports do not need it."""
        return OldHead, ()

    def keep(self, head: GradHead | None) -> None:
        """Keep a copy of a head, replacing the previous one."""
        self.head = None if head is None else copy.deepcopy(head).eval().requires_grad_(requires_grad=False)

    def drift(self, network: GradModel, features: Tensor) -> Tensor:
        """Return the mean squared difference between the normal maps of a network's head and of the old head.

        Args:
            network: Network in training mode, which corrupts the input of its head; both heads get the same input.
            features: The backbone's features ``(B, C, h, w)``.

        Raises:
            RuntimeError: If no head is kept.
        """
        if self.head is None:
            raise RuntimeError("there is no old head to compare with: call keep first.")
        shown = network.shown(turned(network.head_input(features)))
        with torch.no_grad():
            head = self.head.to(next(network.head.parameters()))  # to its device and dtype
            expected = head.normal(shown)
        return functional.mse_loss(network.head.normal(shown).float(), expected.float())


def turned(features: Tensor) -> Tensor:
    """Rotate the whole batch ``(B, C, h, w)`` by a random right angle that keeps its shape, and mirror it at random."""
    step = 1 if features.shape[2] == features.shape[3] else 2
    quarters, mirrored = step * int(torch.randint(4 // step, ())), bool(torch.randint(2, ()))
    features = torch.rot90(features, quarters, (2, 3))
    return features.flip(3) if mirrored else features


def freeze_batch_norm(head: GradHead) -> None:
    """Make batch normalisation use its running statistics in training, as in eval mode.

    A batch holds other products: with its statistics, even a head with the old weights would give other outputs.
    """
    for module in head.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
