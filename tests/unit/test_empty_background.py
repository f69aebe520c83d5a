# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""An empty background does not decide the score of `plus`.

Its features are short and their direction is noise, so that a distance of directions is largest there, on normal images
as on anomalous ones.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from anomalib_grad.recipes import build_network, find_recipe
from anomalib_grad.settings import Settings

NOISE = 0.1
NETWORK = Settings(backbone="mobilenetv3_small_050", image_size=(160, 160)).over(find_recipe("plus").settings)


class Features(NamedTuple):
    """Features of photographs of a part on an empty background."""

    usual: Tensor  # (B, C, h, w), without noise and defects
    good: Tensor
    bad: Tensor  # with a defect in each
    background: Tensor  # (h, w) bool


def features_of_parts(channels: int, side: int, seed: int) -> Features:
    """Generate features: long ones that vary from place to place on the part, ones as short as the noise around it."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    background = torch.ones(side, side, dtype=torch.bool)
    background[side // 3 : -(side // 3), 2:-2] = False
    part = 3 + torch.einsum("nkhw,kc->nchw", draw(12, 8, side, side), draw(8, channels))
    usual = torch.where(background, NOISE * draw(channels, 1, 1), part)
    defect = torch.zeros(side, side)
    defect[side // 2, side // 2 - 1 : side // 2 + 2] = 1
    noise = NOISE * draw(2, *usual.shape)
    bad = usual + defect * draw(12, channels, 1, 1)
    return Features(usual, usual + noise[0], bad + noise[1], background)


@pytest.mark.parametrize("seed", range(3))
def test_defects_are_scored_above_the_noise_of_an_empty_background(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_network(NETWORK, pre_trained=False).eval()
    features = features_of_parts(model.backbone.channels, *model.backbone.feature_size[:1], seed)
    model.whitening.fit([features.good])
    monkeypatch.setattr(model.head, "normal", lambda _: model.head_input(features.usual))  # what it is to learn
    good, bad = model(features=features.good), model(features=features.bad)
    assert good.pred_score.max() < bad.pred_score.min()
    for anomaly_map in bad.anomaly_map:
        height, width = divmod(anomaly_map.argmax().item(), anomaly_map.shape[-1])
        assert not features.background[height // 16, width // 16]
