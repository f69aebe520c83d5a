# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What is advised after a training that diverged is something else than what was done."""

from types import SimpleNamespace

import pytest
import torch

from anomalib_grad.training.unusable_weights import DivergenceError, StopDiverged


@pytest.mark.parametrize(
    ("precision", "advice"),
    [
        ("16-true", "train with precision 32-true or bf16-mixed (it was 16-true), or with a lower learning_rate."),
        ("32-true", "train with a lower learning_rate."),
    ],
)
def test_another_precision_is_advised_where_there_is_one(precision: str, advice: str) -> None:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, torch.nan)
    with pytest.raises(DivergenceError) as error:
        StopDiverged().on_train_epoch_end(SimpleNamespace(precision=precision, current_epoch=0), model)
    assert str(error.value).endswith(f"weight is no longer finite; {advice}")
