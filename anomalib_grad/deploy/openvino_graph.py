# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Changes to the inputs and outputs of an exported graph, for inner tensors that anomalib's inferencers do not use."""

import openvino as ov
from openvino import opset13

from .export import CATEGORY, RAW


def find_tensor(model: ov.Model, name: str) -> ov.Output:
    """Return a named tensor inside a model, or raise a ValueError if there is none."""
    outputs = (output for operation in model.get_ops() for output in operation.outputs())
    found = next((output for output in outputs if name in output.get_names()), None)
    if found is None:
        raise ValueError(f"the exported model lacks the tensor {name!r}, as older exports do; export it again.")
    return found


def with_category_output(model: ov.Model) -> ov.Model:
    """Return a copy of a model with the recognised category as its last output."""
    model = model.clone()
    recognised = find_tensor(model, CATEGORY)
    recognised.get_tensor().set_names({CATEGORY})
    model.add_outputs(recognised)
    return model


def with_raw_outputs(model: ov.Model, *, told: bool) -> ov.Model:
    """Return a copy of a model whose only outputs are raw scores and maps, in the unit of the thresholds.

    If ``told``, the category is an input, and the recognised category an additional output.
    """
    model = model.clone()
    recognised = [_replace_category_by_input(model)] if told else []
    return ov.Model([*(find_tensor(model, name) for name in RAW), *recognised], model.get_parameters(), "raw")


def with_category_input(model: ov.Model) -> ov.Model:
    """Return a copy of a model that takes the category as second input, int64 indices of shape ``(B,)``."""
    model = model.clone()
    _replace_category_by_input(model)
    return model


def _replace_category_by_input(model: ov.Model) -> ov.Output:
    """Replace the recognised category by an input, in place, and return the tensor that was replaced."""
    recognised = find_tensor(model, CATEGORY)
    recognised.get_tensor().set_names(set())
    told = opset13.parameter([-1], recognised.get_element_type(), name=CATEGORY)
    told.output(0).get_tensor().set_names({CATEGORY})
    for consumer in recognised.get_target_inputs():
        consumer.replace_source_output(told.output(0))
    model.add_parameters([told])
    model.validate_nodes_and_infer_types()
    return recognised
