# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""When the learning rates drop."""

import pytest
import torch

from anomalib_grad.training.optimisation import authors_step_decay, cosine_decay


def test_rates_drop_at_epochs_41_and_81_as_in_the_authors_loop() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = authors_step_decay(optimizer)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0] * 41 + [0.1] * 40 + [0.01] * 19)


def test_groups_keep_their_own_rates_and_the_schedule_its_place_in_a_state_dict() -> None:
    def build() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-3, 0.1)]
        optimizer = torch.optim.AdamW(groups)
        return optimizer, authors_step_decay(optimizer, step=2, gamma=0.5)

    optimizer, schedule = build()
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([5e-4, 0.05])
    resumed_optimizer, resumed = build()
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for either in (schedule, resumed):
        either.optimizer.step()
        either.step()
        either.step()
    assert resumed.get_last_lr() == schedule.get_last_lr() == pytest.approx([2.5e-4, 0.025])


def test_cosine_rises_over_the_warm_up_and_ends_at_zero() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = cosine_decay(optimizer, warmup=4, total=lambda: 24)
    rates = []
    for _ in range(25):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[14] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[24] == pytest.approx(0.0)
