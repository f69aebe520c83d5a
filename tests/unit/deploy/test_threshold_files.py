# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds in ONNX files, whatever else is in them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anomalib_grad.deploy.checksum import files_of, is_intact, seal
from anomalib_grad.deploy.export import finish_onnx
from anomalib_grad.deploy.threshold_files import TABLE, ExportFileError, read_export, write_export
from anomalib_grad.thresholds.display import NO_EVIDENCE, remarks, thresholds_table
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor

VALUES = np.array([[8.0, 9.0, 0.0, 20.0, 0.0, 30.0]], dtype=np.float32)


def written(path: Path, name: str = TABLE, **options: object) -> Path:
    """A model of one product, with a table of that name."""
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 6])
    score = helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, [1, 6])
    node = helper.make_node("Add", ["input", name], ["pred_score"])
    graph = helper.make_graph([node], "graph", [image], [score], [numpy_helper.from_array(VALUES, name)])
    onnx.save(helper.make_model(graph), path, **options)
    finish_onnx(path, [], None, PerCategoryPostProcessor())
    seal(path)
    return path


def test_weights_that_lie_apart_stay_as_they_are(tmp_path: Path):
    options = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    model = written(tmp_path / "model.onnx", **options)
    thresholds = read_export(model)
    np.testing.assert_array_equal(thresholds.table, VALUES)
    thresholds.set_threshold(None, 12.5)
    write_export(model, thresholds)
    assert read_export(model).threshold(None) == 12.5
    assert is_intact(*(file.read_bytes() for file in files_of(model)))
    assert read_export(model).record(None).history[0].before == 8.0


def test_an_export_of_an_older_version_is_refused_in_one_sentence(tmp_path: Path):
    model = written(tmp_path / "model.onnx", name="val_12")
    before = model.read_bytes()
    with pytest.raises(ExportFileError, match="export it again"):
        read_export(model)
    assert model.read_bytes() == before


def test_what_is_not_known_is_not_guessed(tmp_path: Path):
    thresholds = read_export(written(tmp_path / "model.onnx"))
    assert remarks(thresholds) == [NO_EVIDENCE]
    table = thresholds_table(thresholds)
    cells = [list(map(str, column.cells)) for column in table.columns]
    assert cells == [["all"], ["8"], *[["unknown"]] * 4]
    thresholds.set_threshold(None, 5.0)
    cells = [str(next(iter(column.cells))) for column in thresholds_table(thresholds).columns]
    assert cells[1:3] == ["5", "threshold 5"]
    assert cells[4:] == ["unknown: no such images"] * 2
