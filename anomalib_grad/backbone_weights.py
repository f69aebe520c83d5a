# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pretrained backbone weights from timm's hub or a local file; never random weights in their place."""

import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn


class BackboneWeightsError(RuntimeError):
    """The pretrained weights of a backbone cannot be had."""


def load_pretrained(name: str, file: Path | None, build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    """Read the pretrained weights of a timm backbone.

    Args:
        name: timm model name.
        file: Local safetensors or pth file; ``None`` asks timm's hub or its local cache.
        build: Builds the network; takes ``seed`` and timm's ``pretrained`` arguments.

    Returns:
        State dict of the built network.

    Raises:
        BackboneWeightsError: If the weights are out of reach, unreadable or do not cover the network.
    """
    pretrained = _from_hub(name, build) if file is None else _from_file(name, file, build)
    random_init = build(seed=0).state_dict()
    untouched = [
        key
        for key, value in pretrained.items()
        if value.is_floating_point()
        and random_init[key].numel() > 1
        and random_init[key].std() > 0
        and torch.equal(value, random_init[key])
    ]
    if untouched:
        raise BackboneWeightsError(
            f"{file or 'the pretrained file'} holds no weights for {len(untouched)} tensors of backbone {name!r} "
            f"(first: {untouched[0]}); give a file of exactly this backbone."
        )
    return pretrained


def _from_file(name: str, file: Path, build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    if not file.is_file():
        raise BackboneWeightsError(f"no weights for backbone {name!r}: there is no file {str(file)!r}.")
    try:
        return build(seed=0, pretrained=True, pretrained_cfg_overlay={"file": str(file)}).state_dict()
    except (RuntimeError, KeyError, ValueError, OSError, EOFError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneWeightsError(
            f"cannot read weights for backbone {name!r} from {str(file)!r}: {cause} "
            f"Give a safetensors or pth file with timm's weights of exactly this backbone."
        ) from error


def _from_hub(name: str, build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    if not timm.is_model_pretrained(name):
        raise BackboneWeightsError(
            f"timm has no pretrained weights for backbone {name!r}; give their file as pre_trained=/path/to/weights, "
            f"or pre_trained=False for random ones."
        )
    cached = _cached_file(name)
    if cached is not None:
        return _from_file(name, cached, build)
    unreachable = BackboneWeightsError(
        f"no pretrained weights for backbone {name!r}: the model hub cannot be reached and the local cache does not "
        f"hold them; give a local file as pre_trained=/path/to/weights.safetensors (fetched elsewhere), or choose the "
        f"built-in backbone='grad_tiny', which needs no download."
    )
    if _has_no_network():
        raise unreachable
    try:
        return build(seed=0, pretrained=True).state_dict()
    except OSError as error:  # the hub's and the sockets' errors are all OSErrors
        raise unreachable from error


def _cached_file(name: str) -> Path | None:
    """Find the weights in the hub's local cache, so that a machine without a network need not wait for time-outs."""
    config = timm.get_pretrained_cfg(name)
    repository = config.hf_hub_id if config is not None else None
    cached = try_to_load_from_cache(repository, "model.safetensors") if repository else None
    return Path(cached) if isinstance(cached, str) else None


def _has_no_network() -> bool:
    """Tell a machine without a network at once; the hub's client would retry for most of a minute."""
    if getproxies():  # a proxy resolves names itself
        return False
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False
