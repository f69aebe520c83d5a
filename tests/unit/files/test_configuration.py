# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints are refused, and what the refusal says."""

import pytest

from anomalib_grad.files.configuration import CheckpointConfigurationError, check_configuration

MODEL = {"backbone": "resnet18", "layers": ["layer2", "layer3"], "fusion": "small"}


def test_equal_configurations_pass_and_fields_of_other_versions_do_not_matter() -> None:
    check_configuration(MODEL, dict(MODEL))
    check_configuration({**MODEL, "added_later": 1}, {**MODEL, "dropped_since": 2})


def test_every_differing_field_is_named_with_both_values_and_no_other() -> None:
    with pytest.raises(CheckpointConfigurationError) as error:
        check_configuration(MODEL, {**MODEL, "backbone": "resnet34", "fusion": "mobile"})
    message = str(error.value)
    assert "backbone is 'resnet34' in the checkpoint but 'resnet18' in this model" in message
    assert "fusion is 'mobile' in the checkpoint but 'small' in this model" in message
    assert "layers" not in message


def test_a_checkpoint_of_another_model_is_called_that() -> None:
    with pytest.raises(CheckpointConfigurationError, match="not written by Grad but by another model"):
        check_configuration(MODEL, None)
