# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that the authors' trainer wrote, through our reader, against the authors' outputs."""

from pathlib import Path

import torch
from torch.nn import functional

from anomalib_grad.anomaly_map import AnomalyMapGenerator, upsampling_matrix
from anomalib_grad.checkpoint.authors_file import read_authors_file
from anomalib_grad.checkpoint.authors_model import load_authors_head
from stages import STAGES, head_stages

CHECKPOINT = Path(__file__).parent / "data" / "official_crad_head_checkpoint.pth.tar"


def test_outputs_are_the_authors(golden, check):
    expected = golden("official_checkpoint_io")
    features = expected["input"]
    head = load_authors_head(CHECKPOINT)
    with torch.no_grad():
        stages = head_stages(head, features)
        residual = stages["residual_norm"]
        size = residual.shape[-1]
        upsampling = upsampling_matrix(size, 8 * size).float()
        stages["anomaly_map"] = upsampling @ residual @ upsampling.T
        stages["smoothed_map"], stages["image_score"] = AnomalyMapGenerator((size, size), (8 * size, 8 * size))(
            residual
        )
        stages["eval_loss"] = functional.mse_loss(head(features).refined, features)
    assert stages.keys() == expected.keys() - {"input", "neck_input_stride8", "neck_input_stride16"}
    for name, actual in stages.items():
        check(f"authors' checkpoint {name}", actual, expected[name], STAGES)


def test_configuration_is_recognised():
    head = load_authors_head(CHECKPOINT)
    assert head.configuration == {
        "fusion": "mobile",
        "num_blocks": 2,
        "hidden_channels": 24,
        "local_resolution": [8, 8],
        "global_resolution": [4, 4],
        "indicator_weight": 0.3,
        "cosine_weight": 0.7,
    }
    assert head.global_representation.map_shape == (8, 28, 28)
    assert head.local_representation.jitter_std == 0.05
    assert head.mse_threshold.item() == 10.0
    assert not head.training


def test_configuration_objects_are_read_as_plain_data():
    file = read_authors_file(CHECKPOINT)
    assert file.settings("neck")["inplanes"] == [3, 5]
    assert file.settings("reconstruction")["save_recon"].keys() == {"save_dir"}
    assert sorted(file.backbone)[:2] == ["_bn0.bias", "_bn0.num_batches_tracked"]
