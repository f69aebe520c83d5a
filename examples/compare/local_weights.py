# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Hand timm a local weight file in the place of its hub, whoever asks, and refuse what no file was given for.

with local_weights({"vit_small_patch14_dinov2": Path("dinov2.safetensors")}) as served:
    model = Dinomaly(encoder_name="vit_small_patch14_dinov2")

anomalib's models ask ``timm.create_model`` for pretrained encoders and have no argument for a file; timm has one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import timm
from torch import nn


class NoWeightsError(OSError):
    """A pretrained encoder was asked for and no file of it was given."""


@dataclass
class Served:
    """What encoders were asked for in the block.

    Attributes:
        files: timm names that were read from a file.
        random: timm names that stayed random, since that was allowed.
    """

    files: set[str] = field(default_factory=set)
    random: set[str] = field(default_factory=set)


@contextmanager
def local_weights(files: Mapping[str, Path], *, random_encoders: bool = False) -> Iterator[Served]:
    """Serve pretrained encoders from files, by their timm names without a tag, while the block runs.

    Args:
        files: timm name to weight file (safetensors or pth), in timm's own names.
        random_encoders: Leave encoders random for which there is no file. Never silently: see the attribute ``random``.

    Yields:
        Which encoders were served, and how.

    Raises:
        NoWeightsError: In the block, where an encoder without a file is asked for.
    """
    served, create = Served(), timm.create_model

    def create_model(model_name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ANN401
        name = model_name.partition(".")[0]
        if pretrained and name in files:
            served.files.add(name)
            overlay = {"file": str(files[name])}
            return create(model_name, pretrained=True, **{**arguments, "pretrained_cfg_overlay": overlay})
        if pretrained and not random_encoders:
            raise NoWeightsError(f"no weight file of {name}: give --weights {name}=FILE, or --random-encoders")
        if pretrained:
            served.random.add(name)
        return create(model_name, pretrained=False, **arguments)

    with mock.patch.object(timm, "create_model", create_model):
        yield served
