# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Fingerprint of everything that cached features depend on: if it changes, they are computed again."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anomalib
import PIL
import timm
import torch
import torchvision
from torch import nn

LAYOUT = 6
"""Version of the layout of a row and of how images are read; raise it when either changes."""


def hash_images(paths: Iterable[str]) -> str:
    """Hash the names, sizes, and times of modification and status change of image files, in their order.

    The time of modification alone would not do: copying a file can preserve it.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        status = Path(path).stat()
        digest.update(
            f"{Path(path).absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n".encode()
        )
    return digest.hexdigest()


def hash_weights(network: nn.Module) -> str:
    """Hash the names and values of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(*parts: Any) -> str:  # noqa: ANN401  # anything whose repr says all about it
    """Hash values by their repr, together with the versions of the libraries that read images and compute features."""
    versions = [module.__version__ for module in (anomalib, PIL, timm, torch, torchvision)]
    return hashlib.blake2b(repr((LAYOUT, versions, parts)).encode(), digest_size=16).hexdigest()
