# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation: the student learns to reproduce the teacher's feature maps on random crops.

The maps at strides 8 and 16 are the goal. The map at stride 4 is a hint for the student's early layers (Romero et al.,
"FitNets: Hints for Thin Deep Nets", 2015).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional

from anomalib_grad.backbone.tiny import create_grad_tiny

from .batches import CropSource

WARMUP_STEPS = 500
GUIDE_CHANNELS = 24  # of the teacher at stride 4
SHARES = (0.2, 0.4, 0.4)
"""Weights of the maps at strides 4, 8 and 16 in the loss."""
STATISTICS_BATCHES = 60


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters, which determine the weights up to library versions and the processor.

    The learning rate is constant until ``cooldown`` steps before the end, then falls to zero as 1 - sqrt. This is as
    good as a cosine (Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", 2024),
    and the end can be changed during the run.
    """

    steps: int
    cooldown: int
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    bfloat16: bool = True

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        warmup = min(WARMUP_STEPS, self.steps // 10)
        start = self.steps - self.cooldown
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * (1 - math.sqrt(max(step - start, 0) / max(self.cooldown, 1)))


class Teacher(nn.Module):
    """timm's ``mobilenetv2_100`` up to stride 16, frozen, with channels normalised to zero mean and unit variance.

    Args:
        weights: Local safetensors file with timm's weights.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        overlay = {"file": str(weights)}
        network: Any = timm.create_model(
            "mobilenetv2_100",
            features_only=True,
            out_indices=(1, 2, 3),
            pretrained=True,
            pretrained_cfg_overlay=overlay,
        )
        network.blocks = network.blocks[:5]  # saves timm the stages behind stride 16
        self.network = network
        for index, channels in enumerate(network.feature_info.channels()):
            self.register_buffer(f"mean{index}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"std{index}", torch.ones(1, channels, 1, 1))
        self.register_buffer("image_mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1))
        self.requires_grad_(requires_grad=False)
        self.eval()

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images ``(B, 3, H, W)`` in [0, 1] for teacher and student."""
        images = (images - self.get_buffer("image_mean")) / self.get_buffer("image_std")
        return images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute feature maps of normalised images at strides 4, 8 and 16, with zero mean and unit variance.

        Their shapes are ``(B, 24, H/4, W/4)``, ``(B, 32, H/8, W/8)`` and ``(B, 96, H/16, W/16)``.
        """
        return [
            (features.float() - self.get_buffer(f"mean{index}")) / self.get_buffer(f"std{index}")
            for index, features in enumerate(self.network(images))
        ]

    @torch.no_grad()
    def measure(self, batches: list[Tensor]) -> None:
        """Estimate the channels' means and standard deviations from batches of images in [0, 1]."""
        maps = [self.network(self.normalise(images)) for images in batches]
        for index, stage in enumerate(zip(*maps, strict=True)):
            values = torch.cat([features.transpose(0, 1).flatten(1) for features in stage], dim=1)  # (C, n)
            self.get_buffer(f"mean{index}").copy_(values.mean(dim=1).view(1, -1, 1, 1))
            self.get_buffer(f"std{index}").copy_(values.std(dim=1).view(1, -1, 1, 1))


class GuidedStudent(nn.Module):
    """The student with an adapter on its stride-4 stage, which only the distillation needs."""

    def __init__(self) -> None:
        super().__init__()
        self.student = create_grad_tiny(pretrained=False)
        width: int = self.student.trunk.feature_info.channels()[0]
        self.guide = nn.Conv2d(width, GUIDE_CHANNELS, kernel_size=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute maps of normalised images, in the shapes of the teacher's."""
        shallow, fine, coarse = self.student.trunk(images)
        return [self.guide(shallow), self.student.adapter8(fine), self.student.adapter16(coarse)]


class Distillation:
    """State of the distillation: student, optimiser, data and current step.

    Args:
        teacher_weights: Local weights of the teacher.
        recipe: Schedule and seed.
        source: Source of crops.
    """

    def __init__(self, teacher_weights: Path, recipe: Recipe, source: CropSource) -> None:
        self.recipe = recipe
        self.source = source
        torch.manual_seed(recipe.seed)
        self.student = GuidedStudent().train().to(memory_format=torch.channels_last)
        self.teacher = Teacher(teacher_weights).to(memory_format=torch.channels_last)
        self.average = ModelEmaV3(self.student, decay=recipe.ema_decay, use_warmup=True)
        kernels = [parameter for parameter in self.student.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.student.parameters() if parameter.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self.step = 0

    def run(self, until: int, report: Callable[[int, list[float]], None]) -> None:
        """Train up to step ``until``; pass ``report`` each step and its unexplained variance at strides 8 and 16."""
        if self.step == 0:
            self.teacher.measure([self.source.batch(step) for step in range(STATISTICS_BATCHES)])
        while self.step < until:
            losses = self._train_on(self.source.batch(self.step))
            self.step += 1
            report(self.step, losses)

    def _train_on(self, crops: Tensor) -> list[float]:
        images = self.teacher.normalise(crops)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            targets = self.teacher(images)
            outputs = self.student(images)
        losses = [functional.mse_loss(output.float(), target) for output, target in zip(outputs, targets, strict=True)]
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        sum(share * loss for share, loss in zip(SHARES, losses, strict=True)).backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimiser.step()
        self.average.update(self.student, step=self.step)
        return [loss.item() for loss in losses[1:]]

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which another process can resume as if without interruption."""
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "average": self.average.module.state_dict(),
            "teacher": dict(self.teacher.named_buffers(recurse=False)),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state."""
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.average.module.load_state_dict(state["average"])
        self.teacher.load_state_dict(state["teacher"], strict=False)  # its network comes from its own file
        self.optimiser.load_state_dict(state["optimiser"])


def export(distillation: Distillation, file: Path) -> None:
    """Write the averaged student as float16 safetensors: the file that the package ships."""
    state = distillation.average.module.student.state_dict()
    half = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, file, metadata={"format": "pt", "license": "Apache-2.0", "steps": str(distillation.step)})
    file.chmod(0o644)  # safetensors creates files that only their owner can read
