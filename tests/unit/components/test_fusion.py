# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The three kinds of fusion: published sizes, order of their inputs and operations, arguments that are refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from anomalib_grad.components.representation import FUSIONS, Bottleneck, Fusion


@pytest.mark.parametrize(("kind", "blocks"), [("residual", 7), ("mobile", 11), ("small", 11)])
def test_shapes_and_published_number_of_blocks(kind, blocks):
    fusion = Fusion(6, kind).eval()
    assert len(fusion.blocks) == blocks
    assert fusion(torch.rand(2, 6, 3, 5), torch.rand(2, 6, 3, 5)).shape == (2, 6, 3, 5)
    assert fusion.recover.bias is None
    assert fusion.recover.weight.shape == (6, 12, 1, 1)


@pytest.mark.parametrize(("kind", "hidden"), [("mobile", 24), ("small", 6)])
def test_published_hidden_width(kind, hidden):
    depthwise = [m for m in Fusion(6, kind).modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert {(m.groups, m.out_channels, m.kernel_size) for m in depthwise} == {(hidden, hidden, (3, 3))}


def test_the_global_map_comes_first():
    fusion = Fusion(2, "residual", num_blocks=0)
    with torch.no_grad():
        fusion.recover.weight.copy_(torch.eye(2, 4)[:, :, None, None])  # keeps the first two of four channels
    global_map, local_map = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
    torch.testing.assert_close(fusion(global_map, local_map), global_map)


def test_bottleneck_gates_before_its_second_activation_and_adds_its_input():
    torch.manual_seed(0)
    block = Bottleneck(8, 12).eval()
    x = torch.randn(2, 8, 4, 4)
    expand, bn1, _, depthwise, bn2, gate, _, project, bn3 = block.layers
    hidden = functional.hardswish(bn1(expand(x)))
    hidden = bn2(depthwise(hidden))
    squeeze, excite = gate.gate[0], gate.gate[2]
    scale = functional.hardsigmoid(excite(functional.relu(squeeze(hidden.mean(dim=(2, 3))))))
    gated = hidden * scale[:, :, None, None]
    torch.testing.assert_close(block(x), x + bn3(project(functional.hardswish(gated))))
    assert squeeze.out_features == 3
    assert squeeze.bias is None
    assert excite.bias is None
    activated_first = functional.hardswish(hidden) * scale[:, :, None, None]
    assert not torch.allclose(block(x), x + bn3(project(activated_first)), rtol=1e-2), "the order must matter here"


def test_number_of_blocks_and_width_can_be_chosen():
    fusion = Fusion(6, "mobile", num_blocks=2, hidden_channels=5)
    assert len(fusion.blocks) == 2
    assert fusion.blocks[0].layers[0].out_channels == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "large"}, f"choose one of {', '.join(FUSIONS)}"),
        ({"num_blocks": -1}, "num_blocks must be a whole number of at least 0"),
        ({"num_blocks": 1.5}, "num_blocks must be a whole number of at least 0, got 1.5"),
        ({"hidden_channels": 2.5}, "hidden_channels must be a whole number of at least 1, got 2.5"),
        ({"kind": "residual", "hidden_channels": 8}, "do not set hidden_channels"),
        ({"kind": "mobile", "hidden_channels": 0}, "hidden_channels must be a whole number of at least 1, got 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Fusion(6, **arguments)
