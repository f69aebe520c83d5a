# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Training steps are computed in bfloat16 where the machine has arithmetic for it and the user left that open."""

import pytest
import torch
from lightning.pytorch import Trainer

from anomalib_grad.feature_cache import FeatureBatch
from anomalib_grad.lightning_model import Grad
from helpers import tiny


@pytest.fixture(params=[True, False], ids=["with", "without"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether torch finds bfloat16 arithmetic in this processor."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return request.param


@pytest.fixture
def model() -> Grad:
    return Grad(**tiny(mse_threshold=1.0, precision="auto"))


def dtype_of_a_step(model: Grad, precision: str | None, patch: pytest.MonkeyPatch) -> torch.dtype:
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, precision=precision)
    seen: list[torch.dtype] = []
    recover = model.model.head.fusion.recover
    recover.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    patch.setattr(model, "log", lambda *_, **__: None)  # Lightning takes figures in its loop alone
    model.on_fit_start()
    model.training_step(FeatureBatch(torch.rand(2, model.model.backbone.row_length)))["loss"].backward()
    assert recover.weight.grad.dtype == torch.float32
    return seen[0]


def test_the_machine_decides_where_the_trainers_precision_is_its_default(
    model: Grad, arithmetic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dtype_of_a_step(model, None, monkeypatch) == (torch.bfloat16 if arithmetic else torch.float32)


def test_a_precision_that_the_user_gives_is_kept(
    model: Grad, arithmetic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dtype_of_a_step(model, "64-true", monkeypatch) != torch.bfloat16
    model = Grad(**tiny(mse_threshold=1.0, precision="trainer"))
    assert dtype_of_a_step(model, None, monkeypatch) == torch.float32
