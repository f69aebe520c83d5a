# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The stages of the head under the names of the golden tensors."""

import torch
from torch import Tensor

from anomalib_grad.anomaly_map import residual_norm
from anomalib_grad.components.head import GradHead, refine, similarity

STAGES = 1e-5
"""Largest deviation allowed in a stage, relative to its largest value."""


def head_stages(head: GradHead, features: Tensor) -> dict[str, Tensor]:
    """All intermediate results under the golden files' names."""
    global_sample = head.global_representation(features)
    local_sample = head.local_representation(features)
    fused_input = torch.cat([global_sample, local_sample], dim=1)
    fused = head.fusion.blocks(fused_input)
    recovered = head.fusion.recover(fused)
    similarity_map = similarity(features, recovered, head.mse_threshold)
    indicator = similarity(features, recovered, head.mse_threshold, 1.0, 0.0)
    refined = refine(features, recovered, similarity_map)
    return {
        "local_coords": head.local_representation.coordinates(features),
        "global_coords": head.global_representation.coordinates(features.mean(dim=(2, 3))),
        "global_sample": global_sample,
        "local_sample": local_sample,
        "fused_input": fused_input,
        "fused": fused,
        "recovered": recovered,
        "mse": (recovered - features).square().mean(dim=1),
        "indicator": indicator.squeeze(1),
        "cosine": similarity(features, recovered, head.mse_threshold, 0.0, 1.0).squeeze(1),
        "similarity": similarity_map,
        "refined": refined,
        "residual_norm": residual_norm(features, refined),
    }
