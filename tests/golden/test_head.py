# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Every stage of the head and every gradient, against the authors' code."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anomalib_grad.anomaly_map import AnomalyMapGenerator, upsampling_matrix
from anomalib_grad.checkpoint.keys import from_authors_key
from anomalib_grad.components.head import GradHead
from stages import STAGES, head_stages

GRADIENTS = 1e-4
HEADS = {"residual": {}, "mobile": {"hidden_channels": 24}}


def renamed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {from_authors_key(key.removeprefix(prefix)): tensors[key] for key in tensors if key.startswith(prefix)}


def load_head(golden, fusion: str) -> tuple[GradHead, dict[str, Tensor]]:
    tensors = golden(f"{fusion}_fusion")
    channels, *size = tensors["input"].shape[1:]
    head = GradHead(channels, tuple(size), fusion, num_blocks=2, jitter_std=0.0, **HEADS[fusion])
    head.load_state_dict({**renamed(tensors, "state_dict."), "mse_threshold": torch.tensor(10.0)})
    return head, tensors


@pytest.mark.parametrize("fusion", HEADS)
def test_eval_stages(golden, check, fusion):
    head, expected = load_head(golden, fusion)
    features = expected["input"]
    stages = head_stages(head.eval(), features)
    residual = stages["residual_norm"]
    size = residual.shape[-1]
    generator = AnomalyMapGenerator((size, size), (8 * size, 8 * size))
    upsampling = upsampling_matrix(size, 8 * size).float()
    stages["anomaly_map"] = upsampling @ residual @ upsampling.T
    stages["smoothed_map"], stages["image_score"] = generator(residual)
    stages["eval_loss"] = functional.mse_loss(head(features).refined, features)
    for name, actual in stages.items():
        check(f"{fusion} eval {name}", actual, expected[name], STAGES)


@pytest.mark.parametrize("fusion", HEADS)
def test_training_step(golden, check, fusion):
    head, expected = load_head(golden, fusion)
    features = expected["input"]
    stages = head_stages(head.train(), features)
    for name in ("fused", "recovered", "mse", "indicator", "cosine", "similarity", "refined"):
        check(f"{fusion} train {name}", stages[name], expected[f"train.{name}"], STAGES)

    head, _ = load_head(golden, fusion)
    loss = functional.mse_loss(head.train()(features).refined, features)
    loss.backward()
    check(f"{fusion} train loss", loss, expected["train_loss"], STAGES)
    gradients = renamed(expected, "grad.")
    parameters = dict(head.named_parameters())
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        check(f"{fusion} gradient {name.removeprefix('fusion.')[-30:]}", parameters[name].grad, gradient, GRADIENTS)
    state = head.state_dict()
    for name, buffer in renamed(expected, "train_after.state_dict.").items():
        check(f"{fusion} after step {name.removeprefix('fusion.')[-28:]}", state[name], buffer, STAGES)
