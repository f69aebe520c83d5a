# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are something else are named for what they are, and nothing in them is run."""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anomalib_grad.checkpoint.__main__ import main
from anomalib_grad.checkpoint.authors_file import AuthorsCheckpointError
from anomalib_grad.checkpoint.authors_model import load_authors_head
from anomalib_grad.components.head import GradHead
from anomalib_grad.files.atomic import writing
from authors_files import configuration, head_tensors, randomise, save, truncate

HEAD = "module.reconstruction."


def tensors() -> OrderedDict[str, torch.Tensor]:
    return head_tensors(randomise(GradHead(6, (4, 4), "small", num_blocks=2)))


def authors_file(path: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    return save(path, tensors() if state is None else state, configuration([2, 4], (4, 4)))


def zip_of(path: Path, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)


def lightning(path: Path) -> None:
    torch.save({"pytorch-lightning_version": "2.6", "state_dict": tensors()}, path)


def flip(path: Path) -> None:
    """Change a bit of the largest part, which holds weights."""
    authors_file(path)
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[part.header_offset + part.file_size // 2] ^= 1
    path.write_bytes(content)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.touch(), "is empty"),
    "text": (lambda path: path.write_text("lr: 0.1\nbatch: 4"), "is a text file that starts with 'lr: 0.1'"),
    "picture": (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0rest"), "starts with the bytes ff d8 ff e0"),
    "bare pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a bare pickle"),
    "other archive": (
        lambda path: zip_of(path, "readme.txt", b"hello"),
        "zip archive that PyTorch did not write",
    ),
    "compressed": (lambda path: zip_of(path, "a/data.pkl", b"\x80", zipfile.ZIP_DEFLATED), "is compressed"),
    "archive of nothing": (lambda path: zip_of(path, "a/data.pkl", b"\x80"), "cannot be read"),
    "truncated": (lambda path: truncate(authors_file(path.with_suffix(".whole")), path), "damaged or incomplete"),
    "one bit": (flip, "damaged or incomplete"),
    "bytes": (lambda path: torch.save({"a": bytearray(10**6)}, path), "holds Python objects"),
    "lightning": (lightning, "checkpoint of Lightning or anomalib"),
    "list": (lambda path: torch.save([1, 2], path), "contains a list"),
    "no tensors": (lambda path: torch.save({"epoch": 1}, path), "of type int"),
    "nothing": (lambda path: torch.save({}, path), "contains no tensors"),
    "other network": (
        lambda path: torch.save(OrderedDict({"conv1.weight": torch.ones(3)}), path),
        r"weights of another network \(1 tensors, first: 'conv1.weight'\)",
    ),
    "whole module": (
        lambda path: torch.save(torch.nn.Linear(2, 2), path),
        r"holds Python objects \(first: 'torch.nn.modules.linear.Linear'\)",
    ),
    "other method": (
        lambda path: authors_file(path, {f"{HEAD}transformer.0.weight": torch.ones(3)}),
        r"a method other than GRAD or CRAD: .* \(first: 'transformer.0.weight'",
    ),
}


def without(key: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors().items() if name != HEAD + key}


def changed(key: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**tensors(), HEAD + key: tensor}


STATES = {
    "no grid": (without("query.1"), "no local and global grid"),
    "incomplete": (without("layer.0.conv.3.weight"), "lacks the tensor 'fusion.blocks.0.layers.3.weight'"),
    "gap between blocks": (
        {key.replace("layer.1.", "layer.2."): tensor for key, tensor in tensors().items()},
        "lacks the tensor 'fusion.blocks.1.layers.0.weight'",
    ),
    "mixed": (changed("layer.0.1.conv1.weight", torch.ones(3)), "lacks the tensor"),
    "inconsistent": (changed("recover.weight", torch.ones(5, 12, 1, 1)), r"shape \(5, 12, 1, 1\)"),
    "other grid": (changed("query.1", torch.ones(1, 95, 4, 4)), "do not fit the head"),
    "half precision": (changed("query.0", torch.ones(1, 6, 8, 8).half()), "torch.float16"),
    "not finite": (changed("query.0", torch.full((1, 6, 8, 8), float("nan"))), "not finite"),
    "not stored": (changed("query.0", torch.ones(1, 6, 1, 1).expand(1, 6, 8, 8)), "not stored in full"),
    "empty tensor": (changed("query.0", torch.ones(1, 6, 0, 8)), "not stored in full"),
}


def assert_one_sentence(message: str) -> None:
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 500


@pytest.mark.parametrize(("write", "found"), FILES.values(), ids=FILES)
def test_other_files_are_named(tmp_path, write, found):
    path = tmp_path / "file.pth.tar"
    write(path)
    with pytest.raises(AuthorsCheckpointError, match=found) as caught:
        load_authors_head(path)
    assert_one_sentence(str(caught.value))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("state", "found"), STATES.values(), ids=STATES)
def test_heads_that_do_not_fit_together_are_named(tmp_path, state, found):
    path = authors_file(tmp_path / "file.pth.tar", state)
    with pytest.raises(AuthorsCheckpointError, match=found) as caught:
        load_authors_head(path)
    assert_one_sentence(str(caught.value))


class Bomb:
    """Runs a command when unpickled without restriction."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    marker, path, target = tmp_path / "was_run", tmp_path / "bomb.pth.tar", tmp_path / "out.ckpt"
    bomb = Bomb(f"touch {marker}")
    torch.save({"state_dict": tensors(), "arch": bomb}, path)
    assert main(["convert", str(path), str(target)]) == 1
    assert "system" in capsys.readouterr().err
    assert not marker.exists()
    assert not target.exists()
    pickle.loads(pickle.dumps(bomb))  # noqa: S301  # the bomb is live
    assert marker.exists()


class Oversized:
    """A tensor of many more elements than are stored."""

    def __init__(self, stored: torch.Tensor, elements: int) -> None:
        self.stored, self.elements = stored, elements

    def __reduce__(self) -> tuple[object, ...]:
        storage = torch.storage.TypedStorage(
            wrap_storage=self.stored.untyped_storage(), dtype=torch.float32, _internal=True
        )
        return torch._utils._rebuild_tensor_v2, (storage, 0, (self.elements,), (1,), False, OrderedDict())


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "large.pth.tar"
    torch.save({"state_dict": {HEAD + "query.0": Oversized(torch.ones(3), 10**14)}}, path)
    with pytest.raises(AuthorsCheckpointError, match="cannot be read"):
        load_authors_head(path)


def test_failed_conversion_leaves_the_folder_as_it_was(tmp_path):
    target = tmp_path / "out.ckpt"
    target.write_text("before")

    def write_half() -> None:
        with writing(target) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_finished_writing_replaces_the_file(tmp_path):
    target = tmp_path / "out.ckpt"
    target.write_text("before")
    with writing(target) as unfinished:
        unfinished.write_text("after")
    assert target.read_text() == "after"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("arguments", [["missing/out.ckpt"], ["."]])
def test_target_that_cannot_be_written(tmp_path, capsys, arguments):
    source = authors_file(tmp_path / "file.pth.tar")
    assert main(["convert", str(source), str(tmp_path / arguments[0])]) == 1
    assert "folder" in capsys.readouterr().err
