# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What an export leaves on the disk, and in the model."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from anomalib.deploy import ExportType
from onnx import TensorProto, helper
from torch import nn

from anomalib_grad.deploy.export import CATEGORIES_METADATA, finish_onnx, on_cpu_in_float32, publish


def interrupt() -> None:
    raise KeyboardInterrupt


def write(content: str, *names: str, stop: Callable[[], None] | None = None):
    """An export in anomalib's way: files below ``weights/openvino``, the model being the first."""

    def export(root: Path) -> Path:
        folder = root / "weights/openvino"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(content)
            if stop is not None:
                stop()
        return folder / names[0]

    return export


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_publish_moves_all_files_to_the_final_folder(tmp_path: Path):
    path = publish(write("new", "model.xml", "model.bin"), tmp_path, ExportType.OPENVINO)
    assert path == tmp_path / "weights/openvino/model.xml"
    assert files(tmp_path) == {"weights/openvino/model.xml": "new", "weights/openvino/model.bin": "new"}
    assert [entry.name for entry in path.parent.iterdir() if entry.is_dir()] == []


@pytest.fixture
def default_sigterm() -> Iterator[None]:
    """What SIGTERM does in a process of the user's; these tests have a handler of their own."""
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    assert signal.signal(signal.SIGTERM, handler) is signal.SIG_DFL


@pytest.mark.usefixtures("default_sigterm")
@pytest.mark.parametrize("stop", [interrupt, partial(signal.raise_signal, signal.SIGTERM)])
def test_a_stopped_export_leaves_the_last_model_as_it_was_and_nothing_else(tmp_path: Path, stop: Callable[[], None]):
    publish(write("old", "model.xml", "model.bin"), tmp_path, ExportType.OPENVINO)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        publish(write("new", "model.xml", "model.bin", stop=stop), tmp_path, ExportType.OPENVINO)
    assert getattr(stopped.value, "code", None) == (None if stop is interrupt else 143)
    assert files(tmp_path) == {"weights/openvino/model.xml": "old", "weights/openvino/model.bin": "old"}


def test_an_export_removes_what_killed_ones_left_a_day_ago(tmp_path: Path):
    path = publish(write("old", "model.xml"), tmp_path, ExportType.OPENVINO)
    left, running = path.parent / ".export.killed.unfinished", path.parent / ".export.running.unfinished"
    for folder in (left, running):
        folder.mkdir()
    os.utime(left, (1e9, 1e9))
    publish(write("new", "model.xml"), tmp_path, ExportType.OPENVINO)
    assert not left.exists()
    assert running.exists()


def test_a_model_never_stands_beside_the_weights_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    publish(write("old", "model.xml", "model.bin"), tmp_path, ExportType.OPENVINO)
    replace, seen = Path.replace, []

    def watch(source: Path, target: Path) -> Path:
        moved = replace(source, target)
        seen.append({path.name: path.read_text() for path in target.parent.iterdir() if path.is_file()})
        return moved

    monkeypatch.setattr(Path, "replace", watch)
    publish(write("new", "model.xml", "model.bin"), tmp_path, ExportType.OPENVINO)
    assert seen == [{"model.bin": "new"}, {"model.bin": "new", "model.xml": "new"}]


def test_finish_onnx_hides_the_category_names_nodes_drops_traces_and_asks_for_no_new_runtime(tmp_path: Path):
    nodes = [
        helper.make_node("Identity", ["x"], ["pred_score"], name="node_1"),
        helper.make_node("Cast", ["x"], ["category"], name="node_2", to=TensorProto.INT64),
    ]
    trace = nodes[0].metadata_props.add()
    trace.key, trace.value = "pkg.torch.onnx.stack_trace", 'File "/home/someone/model.py", line 1'
    scopes = nodes[0].metadata_props.add()
    scopes.key, scopes.value = "pkg.torch.onnx.name_scopes", "['', 'model', 'model.backbone', 'conv']"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B"])
    outputs = [
        helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["B"]),
        helper.make_tensor_value_info("category", TensorProto.INT64, ["B"]),
    ]
    path = tmp_path / "model.onnx"
    graph, operators = helper.make_graph(nodes, "graph", [x], outputs), [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=operators, ir_version=10), path)

    finish_onnx(path, ["cup", 'a "quoted" name'])

    finished = onnx.load(path)
    onnx.checker.check_model(finished)
    assert [output.name for output in finished.graph.output] == ["pred_score"]
    assert [node.name for node in finished.graph.node] == ["model.backbone/node_1", "/node_2"]
    assert finished.graph.node[1].output == ["category"]
    assert finished.ir_version == 8  # ONNX Runtime 1.17, of many devices, refuses 10
    assert b"someone" not in path.read_bytes()
    metadata = {entry.key: entry.value for entry in finished.metadata_props}
    assert json.loads(metadata[CATEGORIES_METADATA]) == ["cup", 'a "quoted" name']


def test_finish_onnx_names_no_categories_where_none_is_recognised(tmp_path: Path):
    tensor = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["pred_score"])], "graph", [tensor], [output])
    onnx.save(helper.make_model(graph), path := tmp_path / "model.onnx")
    finish_onnx(path, ["cup", "pin"])
    (metadata,) = [entry for entry in onnx.load(path).metadata_props if entry.key == CATEGORIES_METADATA]
    assert json.loads(metadata.value) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_exported_on_the_cpu_gets_back_the_very_tensors(dtype: torch.dtype):
    module = nn.BatchNorm1d(3).to(dtype)
    parameter, values = module.weight, module.weight.detach().clone()
    buffer = module.running_mean
    with on_cpu_in_float32(module):
        assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32, torch.int64}
    assert module.weight is parameter
    assert module.running_mean is buffer
    assert module.weight.dtype == dtype
    torch.testing.assert_close(module.weight.detach(), values, rtol=0, atol=0)
