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
    """Weights of encoders.

    Attributes:
        available: Weight files by timm name.
        random_encoders: Leave encoders without a file random.
        files: timm names of encoders that were requested and have a file.
        random: timm names of requested encoders that stayed random.
    """

    available: Mapping[str, Path]
    random_encoders: bool = False
    files: set[str] = field(default_factory=set)
    random: set[str] = field(default_factory=set)

    def file_of(self, encoder: str) -> Path | None:
        """Return the file of a requested encoder, or ``None`` if it stays random.

        Raises:
            NoWeightsError: If there is no file and random encoders are not allowed.
        """
        name = encoder.partition(".")[0]
        if name in self.available:
            self.files.add(name)
            return self.available[name]
        if not self.random_encoders:
            raise NoWeightsError(
                f"there is no weight file for {name}: give --weights {name}=FILE, or --random-encoders"
            )
        self.random.add(name)
        return None


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
        BackboneWeightsError: In the block, if a file is not of the encoder that is requested.
    """
    served, create = Served(files, random_encoders), timm.create_model

    def create_model(model_name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ANN401
        file = served.file_of(model_name) if pretrained else None
        network = create(model_name, pretrained=False, **arguments)
        if file is not None:

            def build(seed: int, **source: Any) -> nn.Module:  # noqa: ANN401  # timm's arguments
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    return create(model_name, **{**arguments, **source})

            # timm alone would leave random what another network's file lacks.
            network.load_state_dict(load_pretrained(model_name.partition(".")[0], file, build))
        return network

    with mock.patch.object(timm, "create_model", create_model):
        yield served
