# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Files as the authors' trainer writes them, of models with random weights; no easydict package is needed."""

import shutil
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomalib_grad.checkpoint.keys import to_authors_key
from anomalib_grad.components.head import GradHead


class EasyDict(dict):
    """Pickles as ``easydict.EasyDict`` does: items, and the same again as attributes."""

    def __init__(self, items: dict[str, Any]) -> None:
        super().__init__()
        for name, value in items.items():
            self[name] = EasyDict(value) if isinstance(value, dict) else value
            setattr(self, name, self[name])


EasyDict.__module__ = "easydict"
EasyDict.__qualname__ = "EasyDict"


def configuration(channels: list[int], feature_size: tuple[int, int], **reconstruction: Any) -> list[EasyDict]:
    """Give the configuration that the authors' trainer saves."""
    parts = [
        {
            "name": "backbone",
            "type": "models.backbones.efficientnet_b4",
            "frozen": True,
            "kwargs": {"pretrained": True, "outblocks": [9, 21], "outstrides": [8, 16]},
        },
        {
            "name": "neck",
            "type": "models.necks.MFCN",
            "kwargs": {"inplanes": channels, "outplanes": [sum(channels)], "instrides": [8, 16], "outstrides": [8]},
        },
        {
            "name": "reconstruction",
            "type": "models.reconstructions.CRAD",
            "kwargs": {
                "mse_lamb": 0.3,
                "cos_lamb": 0.7,
                "mse_coef": 0.05,
                "noise_std": 0.05,
                "feature_size": list(feature_size),
                **reconstruction,
            },
        },
    ]
    return [EasyDict(part) for part in parts]


def randomise(head: GradHead) -> GradHead:
    """Draw weights with which every stage of a head matters; statistics stay positive."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in head.state_dict().items():
            if tensor.is_floating_point() and name != "mse_threshold":
                tensor.copy_(
                    torch.rand(tensor.shape, generator=generator) + 0.1
                    if "running_var" in name
                    else 0.3 * torch.randn(tensor.shape, generator=generator)
                )
    return head.eval()


def head_tensors(head: GradHead) -> OrderedDict[str, Tensor]:
    """Give a head's tensors under the authors' full names."""
    return OrderedDict(
        (f"module.reconstruction.{to_authors_key(key)}", tensor)
        for key, tensor in head.state_dict().items()
        if key != "mse_threshold"
    )


def save(path: Path, state: dict[str, Tensor], arch: list[EasyDict]) -> Path:
    """Write a checkpoint as their trainer does, with optimiser state and a NumPy scalar."""
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    content = {
        "epoch": 10,
        "arch": arch,
        "state_dict": OrderedDict(state),
        "best_metric": np.float64(0.93),
        "optimizer": optimizer.state_dict(),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "easydict", module)
        torch.save(content, path)
    return path


def edit_pickle(source: Path, target: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Copy an archive of PyTorch with its pickle changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, edit(content) if entry.filename.endswith("data.pkl") else content)
    return target


def truncate(source: Path, target: Path) -> Path:
    """Copy the first half of a file."""
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        file.truncate(source.stat().st_size // 2)
    return target
