# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""In which numbers training steps are computed, where the user leaves that to the machine.

bfloat16 halves the time of a step where the processor or GPU computes in it, and takes several times as long where it
is emulated (``tests/benchmarks/head_step.py`` prints the ratio). Weights and optimiser stay in float32, so a checkpoint
of one machine trains on any other.
"""

from contextlib import AbstractContextManager, nullcontext

import lightning.pytorch as pl
import torch


def computes_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has arithmetic for bfloat16, and does not emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class TrainingPrecisionMixin(pl.LightningModule):
    """Computes training steps in what the machine computes fast."""

    precision: str

    @property
    def trains_in_bfloat16(self) -> bool:
        """Whether steps are computed in bfloat16 though the trainer says float32, which is its default."""
        return self.precision == "auto" and self.trainer.precision == "32-true" and computes_bfloat16(self.device)

    def step_precision(self) -> AbstractContextManager[object]:
        """Context of the forward pass of a training step."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.trains_in_bfloat16 else nullcontext()

    def say_precision(self) -> None:
        """Say what was chosen, where there was a choice."""
        if self.precision != "auto" or self.trainer.precision != "32-true":
            return
        if self.trains_in_bfloat16:
            self.print(
                f"Training steps are computed in bfloat16, for which this {self.device.type} has arithmetic; "
                f"--model.training.precision trainer keeps float32."
            )
        else:
            self.print(f"Training steps are computed in float32: this {self.device.type} only emulates bfloat16.")
