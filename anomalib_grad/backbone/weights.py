# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pretrained backbone weights from this package, timm's hub or a local file; never random weights in their place."""

import logging
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from timm.models import PretrainedCfg, load_state_dict
from torch import Tensor, nn

from anomalib_grad.files.torch_files import UNREADABLE, check_file, find_unstored

NETWORK_TIMEOUT = 5.0
"""Seconds after which the model hub counts as unreachable."""
_LOADER = logging.getLogger("timm.models._builder")
_UNEXPECTED = re.compile(r"Unexpected keys \((.*)\) found while loading")
_NUMBER = re.compile(r"\.\d+\.")


class BackboneWeightsError(RuntimeError):
    """The pretrained weights of a backbone are unavailable or unusable."""


def load_pretrained(name: str, file: Path | None, build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    """Load the pretrained weights of a timm backbone; returns the state dict of the built network.

    Args:
        name: timm model name.
        file: Local safetensors or pth file; ``None`` takes the package's own weights, else timm's hub or its cache.
        build: Function that builds the network; takes ``seed`` and timm's ``pretrained`` arguments.

    Raises:
        BackboneWeightsError: If the weights are unreachable, unreadable or do not cover the network.
    """
    with _ignoring_unused_parts(name):
        file = _published_file(name) if file is None else file
        return _from_hub(name, build) if file is None else _from_file(name, file, build)


def _published_file(name: str) -> Path | None:
    """Find the weights of a timm backbone in this package or in the hub's local cache."""
    if not timm.is_model_pretrained(name):
        raise BackboneWeightsError(
            f"timm has no pretrained weights for backbone {name!r}; give a weights file as "
            f"pre_trained=/path/to/weights, or pre_trained=False for random weights."
        )
    config = timm.get_pretrained_cfg(name) or PretrainedCfg()
    if not config.file:
        return _cached_file(config)
    if not Path(config.file).is_file():
        raise BackboneWeightsError(
            f"this installation of anomalib-grad lacks the weights of its backbone {name!r} ({config.file}); "
            f"install it again with pip install --force-reinstall --no-deps anomalib-grad."
        )
    return Path(config.file)


def _from_file(name: str, file: Path, build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    tensors = _read_tensors(name, file)
    advice = f"give a safetensors or pth file with timm's weights of exactly {name!r}."
    if further := _further_blocks(name, tensors):
        raise BackboneWeightsError(
            f"{str(file)!r} holds the weights of another network (for example {further[0]}); {advice}"
        )
    try:
        loaded = _load(build, tensors)
        shifted = _load(
            build,
            {key: 2 * value.float() + 1 if value.is_floating_point() else value for key, value in tensors.items()},
        )
    except (RuntimeError, KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise BackboneWeightsError(
            f"{str(file)!r} holds the weights of another network ({_brief(error)}); {advice}"
        ) from error
    # A tensor that does not change with the file's values was not read from it.
    absent = [key for key, value in loaded.items() if value.is_floating_point() and torch.equal(value, shifted[key])]
    if absent:
        raise BackboneWeightsError(
            f"{str(file)!r} lacks {len(absent)} of {len(loaded)} tensors of backbone {name!r} "
            f"(first: {absent[0]}); {advice}"
        )
    return loaded


def _read_tensors(name: str, file: Path) -> dict[str, Tensor]:
    """Read a file of tensors without running any code in it."""
    if not file.is_file():
        raise BackboneWeightsError(f"no weights for backbone {name!r}: there is no file {str(file)!r}; check the path.")
    try:
        if file.suffix != ".safetensors":  # safetensors checks sizes itself
            check_file(file)
        tensors: Any = load_state_dict(str(file), weights_only=True)
    except (SafetensorError, *UNREADABLE) as error:
        raise BackboneWeightsError(
            f"cannot read weights for backbone {name!r}: {str(file)!r} is neither a safetensors file nor a pth file "
            f"that holds only tensors ({_brief(error)}); give such a file."
        ) from error
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    special = find_unstored(tensors)
    if special is not None:
        raise BackboneWeightsError(
            f"cannot use weights for backbone {name!r}: tensor {special} in {str(file)!r} is quantised or not stored "
            f"in full; give a file of plain tensors."
        )
    broken = next((key for key, value in tensors.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise BackboneWeightsError(
            f"cannot use weights for backbone {name!r}: tensor {broken} in {str(file)!r} has NaN or infinite values; "
            f"give an undamaged file."
        )
    if not tensors:  # timm would ask the hub instead
        raise BackboneWeightsError(
            f"cannot read weights for backbone {name!r}: {str(file)!r} holds no tensors; "
            f"give a file with timm's weights of this backbone."
        )
    return tensors


def _further_blocks(name: str, keys: Iterable[str]) -> list[str]:
    """List tensors of blocks after a backbone's last one: the file belongs to a deeper network of its family.

    timm would load the blocks that fit and ignore the others.
    """
    own = {key[: number.end()] for key in _tensors_of_whole_network(name) for number in _NUMBER.finditer(key)}
    containers = {block.rstrip(".").rpartition(".")[0] for block in own}
    return [
        key
        for key in keys
        for number in _NUMBER.finditer(key)
        if key[: number.start()] in containers and key[: number.end()] not in own
    ]


@cache
def _tensors_of_whole_network(name: str) -> frozenset[str]:
    """Return all tensor names in a published file, including the classifier and layers after the used ones."""
    with torch.device("meta"):
        return frozenset(timm.create_model(name).state_dict())


@contextmanager
def _ignoring_unused_parts(name: str) -> Iterator[None]:
    """Silence timm's warnings about tensors of the whole network that the used part does not need."""

    def is_news(record: logging.LogRecord) -> bool:
        warned = _UNEXPECTED.match(record.getMessage())
        return warned is None or not _tensors_of_whole_network(name).issuperset(warned[1].split(", "))

    _LOADER.addFilter(is_news)
    try:
        yield
    finally:
        _LOADER.removeFilter(is_news)


def _load(build: Callable[..., nn.Module], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Load tensors as timm does, which renames and resizes them to fit the network; the result is deterministic."""
    network = build(seed=0, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors), "file": None})
    return network.state_dict()


def _brief(error: Exception) -> str:
    """Shorten an error message to its most telling line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = lines[1] if len(lines) > 1 and lines[0].endswith(":") else (lines or [""])[0]
    return f"{type(error).__name__}: {telling[:200].rstrip('.')}"


def _from_hub(name: str, build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    unreachable = BackboneWeightsError(
        f"no pretrained weights for backbone {name!r}: the model hub cannot be reached and the local cache does not "
        f"hold them; download them elsewhere and give the file as pre_trained=/path/to/weights.safetensors, or choose "
        f"the built-in backbone='grad_tiny', which needs no download."
    )
    if _has_no_network():
        raise unreachable
    try:
        return build(seed=0, pretrained=True).state_dict()
    except OSError as error:  # the hub's and the sockets' errors are all OSErrors
        raise unreachable from error


def _cached_file(config: PretrainedCfg) -> Path | None:
    """Find the weights in the hub's local cache, so that a machine without a network need not wait for time-outs."""
    if not config.hf_hub_id:
        return None
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = [try_to_load_from_cache(config.hf_hub_id, name) for name in names]
    return next((Path(file) for file in found if isinstance(file, str)), None)


def _has_no_network() -> bool:
    """Tell quickly whether there is no network; the hub's client would retry for most of a minute."""
    if getproxies().keys() - {"no"}:  # the proxy has to be reached, which the hub's client can do
        return False
    hub = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((hub.hostname, hub.port or 443), timeout=NETWORK_TIMEOUT):
            return False
    except OSError:
        return True
