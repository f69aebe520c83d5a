# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Exports that recognise the product category, in files that anomalib's own inferencers read unchanged.

anomalib's inferencers accept the four outputs of its InferenceBatch and no others. The recognised category is therefore
a named tensor INSIDE the exported graph, ``category``, and the names are in the file's metadata. Whoever wants it asks
for that tensor; :class:`anomalib_grad.deploy.CategoryOpenVINOInferencer` does.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from anomalib.models.components.base.export_mixin import ExportMixin
from torch import Tensor, nn

CATEGORY = "category"
CATEGORIES_METADATA = "anomalib_grad_categories"


class CategoryInferenceBatch(NamedTuple):
    """anomalib's InferenceBatch and the category index of each image; what an exported graph computes."""

    pred_score: Tensor
    pred_label: Tensor | None
    anomaly_map: Tensor
    pred_mask: Tensor | None
    category: Tensor


class ExplainedInferenceBatch(NamedTuple):
    """anomalib's InferenceBatch and the category name of each image, in anomalib's free-text field."""

    pred_score: Tensor
    pred_label: Tensor | None
    anomaly_map: Tensor
    pred_mask: Tensor | None
    explanation: list[str]


class CategoryExportMixin(ExportMixin):
    """anomalib's export with the category as a tensor inside the graph."""

    post_processor: nn.Module | None
    _exporting = False

    @contextmanager
    def _export_mode(self) -> Iterator[None]:
        self._exporting = True
        try:
            yield
        finally:
            self._exporting = False

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401  # anomalib's arguments for torch.onnx.export
    ) -> Path:
        """Export to ONNX; arguments and result are anomalib's."""
        with self._export_mode():
            path = super().to_onnx(export_root, model_file_name, input_size, **kwargs)
        hide_category_output(path, list(getattr(self.post_processor, "categories", [])))
        return path


def hide_category_output(path: Path, categories: list[str]) -> None:
    """Keep the tensor ``category`` of an ONNX file but take it from the outputs; write the names to the metadata.

    Args:
        path: ONNX file, changed in place.
        categories: Category names in the order of their indices.
    """
    model = onnx.load(path, load_external_data=False)
    for output in [output for output in model.graph.output if output.name == CATEGORY]:
        model.graph.output.remove(output)
    onnx.helper.set_model_props(model, {CATEGORIES_METADATA: json.dumps(categories)})
    temporary = path.with_suffix(".tmp")
    onnx.save(model, temporary)
    temporary.replace(path)
