# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Built-in backbone ``grad_tiny``: a small CNN whose weights come with the package, so no download is needed.

Importing this module registers the model with timm: ``timm.create_model("grad_tiny", features_only=True,
pretrained=True)`` works as for any other timm backbone. ``grad_tiny/README.md`` tells how it was made and what it is
good for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

WEIGHTS_FILE = Path(__file__).parent / "grad_tiny" / "grad_tiny.safetensors"

# stride -> output channels, as in the teacher MobileNetV2
_CHANNELS = {8: 32, 16: 96}

# two thin blocks per stage instead of resnet10t's single wide one: as fast, and closer to a deep teacher
_BLOCKS, _WIDTHS = (2, 2, 2, 2), (48, 96, 192, 384)  # timm also needs the stage that is cut off

default_cfgs = generate_default_cfgs(
    {
        "grad_tiny": {
            "file": str(WEIGHTS_FILE),
            "input_size": (3, 224, 224),
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "num_classes": 0,
            "license": "apache-2.0",
        }
    }
)


class GradTiny(nn.Module):
    """ResNet-D up to stride 16, with linear 1x1 adapters after the stages of strides 8 and 16.

    The trunk is timm's ``resnet10t`` with another depth and width. The adapters reduce the stages' 96 and 192 channels
    to the teacher's 32 and 96: few channels keep GRAD's head small.

    Args:
        out_indices: Maps to return: 0 is the one at stride 8, 1 the one at stride 16.

    Attributes:
        feature_info: One dictionary per map: ``module``, ``reduction`` (stride in pixels), ``num_chs``, ``index``.

    Raises:
        ValueError: If ``out_indices`` is empty or names a map that does not exist.
    """

    def __init__(self, out_indices: Sequence[int] = (0, 1)) -> None:
        super().__init__()
        if not out_indices or not set(out_indices) <= set(range(len(_CHANNELS))):
            raise ValueError(
                f"grad_tiny has feature maps 0 and 1, got out_indices={tuple(out_indices)}; choose among them."
            )
        self.out_indices = tuple(sorted(set(out_indices)))
        self.feature_info: list[dict[str, Any]] = [
            {"module": f"adapter{stride}", "reduction": stride, "num_chs": channels, "index": index}
            for index, (stride, channels) in enumerate(_CHANNELS.items())
        ]
        self.trunk = timm.create_model(
            "resnet10t", features_only=True, out_indices=(1, 2, 3), layers=_BLOCKS, channels=_WIDTHS
        )
        self.adapter8 = nn.Conv2d(_WIDTHS[1], _CHANNELS[8], kernel_size=1)
        self.adapter16 = nn.Conv2d(_WIDTHS[2], _CHANNELS[16], kernel_size=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images ``(B, 3, H, W)`` to ``[(B, 32, H/8, W/8), (B, 96, H/16, W/16)]``."""
        _, fine, coarse = self.trunk(images)  # (B, 48, H/4, W/4), (B, 96, H/8, W/8), (B, 192, H/16, W/16)
        maps = [self.adapter8(fine), self.adapter16(coarse)]
        return [maps[index] for index in self.out_indices]


@register_model
def grad_tiny(pretrained: bool = False, **kwargs: Any) -> GradTiny:  # noqa: ANN401  # timm's arguments
    """Build :class:`GradTiny` as timm builds models; ``features_only`` has no effect, as it only has features."""
    kwargs.pop("features_only", None)
    only_classifiers: Any = ("num_classes", "global_pool", "in_chans")
    model: GradTiny = build_model_with_cfg(GradTiny, "grad_tiny", pretrained, kwargs_filter=only_classifiers, **kwargs)
    return model


def create_grad_tiny(*, pretrained: bool = True) -> GradTiny:
    """Build the built-in backbone in eval mode and float32, by default with its pretrained weights."""
    backbone: Any = timm.create_model("grad_tiny", pretrained=pretrained)
    return backbone.eval()
