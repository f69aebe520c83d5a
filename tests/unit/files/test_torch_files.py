# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pickles of tensors and plain data pass; what holds anything else, or takes forever to read, is refused unread."""

import codecs
import io
import pickle
import random
import zipfile
from collections import Counter, OrderedDict
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anomalib_grad.files.torch_files import UNREADABLE, UnsafeFileError, check_file, check_pickle
from hostile import Call

reconstruct = np.empty(0).__reduce__()[0]
MANY = 250_000_000
DEEP: Any = reduce(lambda inner, _: (inner, inner), range(60), ())  # to hash it takes 2^60 steps
LONG = "a" * 10**6
WIDE = tuple(range(1500))


def encode(content: Any, codec: str) -> Call:
    return Call(codecs.encode, content, codec)


def pickled(content: Any) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return zipfile.ZipFile(file).read("archive/data.pkl")


def trained() -> dict[str, Any]:
    model = nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 3)).sum().backward()
    optimizer.step()
    return {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}


@pytest.mark.parametrize(
    "content",
    [
        trained(),
        {
            "python": random.getstate(),
            "torch": torch.get_rng_state(),
            "device": torch.device("cpu"),
            "size": torch.Size([2]),
        },
        {
            "milestones": Counter({5: 1}),
            "text": LONG,
            "names": {str(n) for n in range(10**4)},
        },
        {f"layer{number}.weight": torch.zeros(2) for number in range(1000)},
    ],
    ids=["training", "random states", "plain", "many tensors"],
)
def test_what_a_training_writes_is_allowed(content: Any) -> None:
    check_pickle(pickled(content))


@pytest.mark.parametrize(
    "content",
    [
        Call(OrderedDict, [(DEEP, 1)]),
        Call(Counter, [DEEP]),
        Call(set, [WIDE] * 10**5),
        [{WIDE: 1} for _ in range(10**4)],
        reduce(lambda inner, _: encode(inner, "hex_codec"), range(26), encode("a", "latin1")),
        encode(LONG, "punycode"),
        [encode(LONG, "latin1") for _ in range(100)],
        [Call(OrderedDict, WIDE) for _ in range(10**4)],
        Call(torch._tensor._rebuild_from_type_v2, codecs.encode, torch.Tensor, (LONG, "punycode"), None),
        Call(np.ndarray, (MANY,)),
        Call(reconstruct, np.ndarray, (MANY,), b"b"),
        Call(reconstruct, np.ndarray, (0,), b"b", state=(1, (MANY,), np.dtype("O"), False, [])),
        Call(np.dtype, f"V{MANY}"),
        Call(np.dtype, "f8,(30000,10000)f8"),
        Call(np.dtype, "V8", state=(3, "|", None, None, None, MANY, 1, 0)),
        Call(np.dtype, "V8", state=(3, "|", (np.dtype("f8"), (MANY,)), None, None, 8, 1, 0)),
        Call(torch.FloatTensor, MANY),
        Call(torch.storage.UntypedStorage, MANY),
        Call(bytearray, MANY),
    ],
)
def test_what_takes_more_than_it_holds_is_refused(content: Any) -> None:
    with pytest.raises(UnsafeFileError, match=r"^it (holds Python objects|refers to the same collections more often)"):
        check_pickle(pickled(content))


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"\x80\x02h", b"\xff"])
def test_a_damaged_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(UNREADABLE):
        check_pickle(content)


def test_what_pytorch_does_not_write_is_refused() -> None:
    with pytest.raises(UnsafeFileError, match="it uses a newer pickle protocol than PyTorch"):
        check_pickle(pickle.dumps({"a": {1, 2}}, protocol=4))


def test_files_from_before_pytorch_1_6_are_looked_at(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    check_file(tmp_path / "weights.pth")
    torch.save(encode(LONG, "punycode"), tmp_path / "hostile.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeFileError, match="it holds Python objects"):
        check_file(tmp_path / "hostile.pth")
