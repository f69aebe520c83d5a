# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-B4 features against the authors' port, with weights that follow a rule on their names."""

import zlib

import torch
from torch import Tensor

from anomalib_grad.backbone import FrozenBackbone


def weight_by_rule(name: str, like: Tensor) -> Tensor:
    """The golden files' weights: a function of timm's name and the shape."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    parent = name.rsplit(".", 2)[-2]
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    if name.endswith(("running_mean", "bias")):
        return 0.1 * torch.randn(like.shape, generator=generator)
    if name.endswith("running_var"):
        return 0.5 + torch.rand(like.shape, generator=generator)
    if parent.startswith("bn"):
        return 0.8 + 0.4 * torch.rand(like.shape, generator=generator)
    fan_in = like[0].numel()
    return torch.randn(like.shape, generator=generator) * (1.6 / fan_in) ** 0.5


def load_backbone(**arguments) -> FrozenBackbone:
    backbone = FrozenBackbone("tf_efficientnet_b4.aa_in1k", pre_trained=False, **arguments)
    state = backbone.network.state_dict()
    backbone.network.load_state_dict({name: weight_by_rule(name, value) for name, value in state.items()})
    return backbone


def test_features(golden, check):
    expected = golden("efficientnet_b4_features")
    backbone = load_backbone()
    stage2, stage3 = backbone.network(expected["input"])
    check("EfficientNet-B4 stride 8", stage2, expected["stage2"], 1e-5)
    check("EfficientNet-B4 stride 16", stage3, expected["stage3"], 1e-5)
    check("EfficientNet-B4 features x", backbone(expected["input"]), expected["concat"], 1e-5)
    assert backbone.layers == ["blocks.2", "blocks.4"]


def test_timms_own_padding_is_another_network(golden):
    expected = golden("efficientnet_b4_features")
    features = load_backbone(faithful_padding=False)(expected["input"])
    assert (features - expected["concat"]).norm() > 0.05 * expected["concat"].norm()
