# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""A head that learns new products answers as the old one does."""

import copy
import pickle

import pytest
import torch

from anomalib_grad.torch_model import GradModel
from anomalib_grad.training.loss import training_loss
from anomalib_grad.training.old_head import OldHead, freeze_batch_norm, turned


@pytest.fixture
def network() -> GradModel:
    """A small network in training, whose statistics are others than those of a batch."""
    torch.manual_seed(0)
    network = GradModel("grad_tiny", image_size=(64, 64), fusion="small", num_blocks=1, jitter_std=0.0)
    network.train()
    with torch.no_grad():
        for weights in network.head.network_parameters():
            weights.mul_(10 if weights.ndim > 1 else 1)  # those of a new head are too small to say anything
        network.head.normal(network.backbone(torch.rand(4, 3, 64, 64)))
    return network


@pytest.fixture
def old(network: GradModel) -> OldHead:
    old = OldHead()
    old.keep(network.head)
    return old


def test_a_head_that_learnt_nothing_has_not_drifted(network: GradModel, old: OldHead) -> None:
    features = network.backbone(torch.rand(4, 3, 64, 64))
    freeze_batch_norm(network.head)
    assert old.drift(network, features).item() == pytest.approx(0, abs=1e-12)
    network.head.train()
    assert old.drift(network, features).item() > 1e-6, "it goes by the statistics of the batch"


def test_a_held_head_learns_the_new_and_forgets_less(network: GradModel, old: OldHead) -> None:
    former, new = network.backbone(torch.rand(4, 3, 64, 64)), network.backbone(torch.rand(4, 3, 64, 64) / 4)

    def learn(hold: float) -> tuple[float, float]:
        """Loss on new features and drift on old ones afterwards."""
        learner = copy.deepcopy(network)
        freeze_batch_norm(learner.head)
        optimizer = torch.optim.AdamW(learner.head.parameters(), lr=3e-3)
        for _ in range(30):
            loss = training_loss(*learner(features=new)) + hold * old.drift(learner, former)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return training_loss(*learner(features=new)).item(), old.drift(learner, former).item()

    start = training_loss(*network(features=new)).item()
    (_, forgotten), (loss, drift) = learn(0.0), learn(4.0)
    assert loss < 0.9 * start
    assert drift < 0.3 * forgotten


@pytest.mark.parametrize(("height", "width", "ways"), [(3, 3, 8), (2, 3, 4)])
def test_features_are_turned_every_way_that_keeps_their_shape(height: int, width: int, ways: int) -> None:
    torch.manual_seed(0)
    features = torch.arange(float(height * width)).view(1, 1, height, width)
    found = [turned(features) for _ in range(200)]
    assert {part.shape for part in found} == {features.shape}
    assert len({tuple(part.flatten().tolist()) for part in found}) == ways


def test_an_export_leaves_the_head_out(old: OldHead) -> None:
    assert pickle.loads(pickle.dumps(old)).head is None  # noqa: S301  # just written
