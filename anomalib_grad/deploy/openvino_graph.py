# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Exported graphs with other inputs and outputs: tensors inside that anomalib's inferencers do not ask for."""

import openvino as ov
from openvino import opset13

from .export import CATEGORY, RAW


def find_tensor(model: ov.Model, name: str) -> ov.Output:
    """Find a named tensor inside a model; a ValueError if there is none."""
    outputs = (output for operation in model.get_ops() for output in operation.outputs())
    found = next((output for output in outputs if name in output.get_names()), None)
    if found is None:
        raise ValueError(f"the exported model has no {name!r} in it, as those of older versions; export it again.")
    return found


def show_category(model: ov.Model) -> ov.Model:
    """Copy a model and make the category that it recognises its last output."""
    model = model.clone()
    recognised = find_tensor(model, CATEGORY)
    recognised.get_tensor().set_names({CATEGORY})
    model.add_outputs(recognised)
    return model


def show_raw(model: ov.Model, *, told: bool) -> ov.Model:
    """Copy a model whose only outputs are scores and maps in the unit of the thresholds.

    One that is ``told`` the category has a further output, the one that it recognises.
    """
    model = model.clone()
    recognised = [_tell(model)] if told else []
    return ov.Model([*(find_tensor(model, name) for name in RAW), *recognised], model.get_parameters(), "raw")


def tell_category(model: ov.Model) -> ov.Model:
    """Copy a model and make the category its second input, int64 indices of shape ``(B,)``, instead of recognising."""
    model = model.clone()
    _tell(model)
    return model


def _tell(model: ov.Model) -> ov.Output:
    """Put an input in the place of the category that a model recognises, and give the latter."""
    recognised = find_tensor(model, CATEGORY)
    recognised.get_tensor().set_names(set())
    told = opset13.parameter([-1], recognised.get_element_type(), name=CATEGORY)
    told.output(0).get_tensor().set_names({CATEGORY})
    for consumer in recognised.get_target_inputs():
        consumer.replace_source_output(told.output(0))
    model.add_parameters([told])
    model.validate_nodes_and_infer_types()
    return recognised
