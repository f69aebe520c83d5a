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


def leaves_precision_open(precision: str, trainer: pl.Trainer) -> bool:
    """Whether neither the settings (``training.precision``) nor the trainer's arguments say how steps are computed."""
    return precision == "auto" and trainer.precision == "32-true"


def step_precision(precision: str, trainer: pl.Trainer, device: torch.device) -> AbstractContextManager[object]:
    """Context of the forward pass of a training step."""
    if leaves_precision_open(precision, trainer) and computes_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def say_precision(precision: str, module: pl.LightningModule) -> None:
    """Say what was chosen, where there was a choice."""
    if not leaves_precision_open(precision, module.trainer):
        return
    kind = module.device.type
    if computes_bfloat16(module.device):
        module.print(
            f"Training steps are computed in bfloat16, for which this {kind} has arithmetic; "
            f"--model.training.precision trainer keeps float32."
        )
    else:
        module.print(f"Training steps are computed in float32: this {kind} only emulates bfloat16.")
