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


def variant(model: ov.Model, *, recognises: bool, told: bool, raw: bool) -> ov.Model:
    """Return a copy of an exported model with other inputs and outputs.

    Args:
        model: The model.
        recognises: Whether it recognises categories. The recognised one is then the last output, except of verdicts
            for which the category is told.
        told: Take the category as second input, int64 indices of shape ``(B,)``.
        raw: Replace the outputs by raw scores and maps, in the unit of the thresholds.
    """
    model = model.clone()
    recognised = [find_tensor(model, CATEGORY)] if recognises else []
    for tensor in recognised:
        tensor.get_tensor().set_names(set() if told else {CATEGORY})
    if told:
        _replace_by_input(model, *recognised)
    if raw:
        return ov.Model([*(find_tensor(model, name) for name in RAW), *recognised], model.get_parameters(), "raw")
    if recognised and not told:
        model.add_outputs(recognised)
    return model


def _replace_by_input(model: ov.Model, recognised: ov.Output) -> None:
    """Replace the recognised category by an input, in place."""
    told = opset13.parameter([-1], recognised.get_element_type(), name=CATEGORY)
    told.output(0).get_tensor().set_names({CATEGORY})
    for consumer in recognised.get_target_inputs():
        consumer.replace_source_output(told.output(0))
    model.add_parameters([told])
    model.validate_nodes_and_infer_types()
