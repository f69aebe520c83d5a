# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Local weight files for timm instead of downloads, for all callers; encoders without a file are refused.

with local_weights({"vit_small_patch14_dinov2": Path("dinov2.safetensors")}) as served:
    model = Dinomaly(encoder_name="vit_small_patch14_dinov2")

anomalib's models get pretrained encoders from ``timm.create_model``, and have no argument for a file; timm has one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from torch import nn

from anomalib_grad.backbone.weights import load_pretrained


class NoWeightsError(OSError):
    """A pretrained encoder was requested without a weight file."""


@dataclass
class Served:
    """Pretrained encoders that were requested in the block.

    Attributes:
        files: timm names of encoders read from a file.
        random: timm names of encoders that stayed random, if allowed.
    """

    files: set[str] = field(default_factory=set)
    random: set[str] = field(default_factory=set)


@contextmanager
def local_weights(files: Mapping[str, Path], *, random_encoders: bool = False) -> Iterator[Served]:
    """Load pretrained encoders from files inside the block, by their timm names without a tag.

    Args:
        files: Weight files (safetensors or pth) with timm's tensor names, by timm name.
        random_encoders: Leave encoders without a file random; they are listed in ``random``.

    Yields:
        Encoders from files and random ones.

    Raises:
        NoWeightsError: In the block, if an encoder without a file is requested.
        BackboneWeightsError: In the block, if a file lacks tensors of the encoder. timm would leave these random in
            networks that give features.
    """
    served, create = Served(), timm.create_model

    def create_model(model_name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ANN401
        name = model_name.partition(".")[0]
        if pretrained and name in files:
            served.files.add(name)

            def build(seed: int, **pretrained: Any) -> nn.Module:  # noqa: ANN401  # timm's arguments
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    return create(model_name, **{**arguments, **pretrained})

            encoder = build(seed=0, pretrained=False)
            encoder.load_state_dict(load_pretrained(name, files[name], build))
            return encoder
        if pretrained and not random_encoders:
            raise NoWeightsError(
                f"there is no weight file for {name}: give --weights {name}=FILE, or --random-encoders"
            )
        if pretrained:
            served.random.add(name)
        return create(model_name, pretrained=False, **arguments)

    with mock.patch.object(timm, "create_model", create_model):
        yield served
