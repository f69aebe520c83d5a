# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Grid coordinates that a model predicts, recorded for the report's figure of the normal representation."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LOCAL = "model.head.local_representation"
GLOBAL = "model.head.global_representation"
SAMPLES = 64
ANOMALOUS_SAMPLES = 16


class CoordinateTap:
    """Records the last outputs of a model's coordinate networks by forward hooks; nothing for models without them."""

    def __init__(self, module: nn.Module) -> None:
        self._last: dict[str, Tensor] = {}
        parts = dict(module.named_modules())
        networks = {name: net for name in (LOCAL, GLOBAL) if (net := parts.get(f"{name}.coordinates")) is not None}
        self._handles = [net.register_forward_hook(partial(self._keep, name)) for name, net in networks.items()]

    def take(self) -> dict[str, Tensor]:
        """Return and clear the coordinates of the last forward pass, by name.

        Returns:
            ``LOCAL``: (B, D, H, W) and ``GLOBAL``: (B, D), each in [-1, 1]; empty for models without coordinates.
        """
        last, self._last = self._last, {}
        return last

    def close(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._last = [], {}

    def _keep(self, name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._last[name] = output.detach()


@dataclass(frozen=True)
class LocalSample:
    """Local coordinates of some pixels of one image: (m, D) float32, and whether each is anomalous: (m,) bool."""

    coordinates: np.ndarray
    anomalous: np.ndarray


def sample_local(coordinates: Tensor, mask: Tensor | None, seed: str) -> LocalSample:
    """Sample up to 64 pixels of one image, up to 16 of them anomalous, so that small defects appear in the figure.

    Args:
        coordinates: (D, H, W) in [-1, 1].
        mask: (H', W') bool, ``None`` if no pixel is known to be anomalous.
        seed: Text that seeds the sampling, such as the image path, so that it does not depend on batches or processes.
    """
    height, width = coordinates.shape[-2:]
    marked = np.zeros(height * width, dtype=bool)
    if mask is not None:
        resized = functional.interpolate(mask[None, None].float(), size=(height, width), mode="nearest")
        marked = resized.flatten().bool().cpu().numpy()
    generator = np.random.default_rng(zlib.crc32(seed.encode()))
    anomalous = generator.permutation(np.flatnonzero(marked))[:ANOMALOUS_SAMPLES]
    normal = generator.permutation(np.flatnonzero(~marked))[: SAMPLES - len(anomalous)]
    drawn = np.concatenate([anomalous, normal])
    points = coordinates.flatten(1).T[torch.as_tensor(drawn, device=coordinates.device)]  # (m, D)
    return LocalSample(points.float().cpu().numpy(), marked[drawn])
