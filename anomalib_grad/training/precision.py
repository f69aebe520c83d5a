# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""In which numbers a training computes its steps, where the user leaves that to the machine.

bfloat16 halves the time of a step where the processor or GPU computes in it, and takes several times as long where it
is emulated (``tests/benchmarks/head_step.py`` prints the ratio). Weights and optimiser stay in float32, so a checkpoint
of one machine trains on any other.
"""

import lightning.pytorch as pl
import torch


def computes_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has arithmetic for bfloat16, and does not emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def takes_bfloat16(precision: str, module: pl.LightningModule) -> bool:
    """Settle whether steps are computed in bfloat16, and say so where there is a choice.

    There is one where neither the settings (``training.precision``) nor the trainer's arguments make it.
    """
    if precision != "auto" or module.trainer.precision != "32-true":
        return False
    kind, native = module.device.type, computes_bfloat16(module.device)
    module.print(
        f"Training steps are computed in bfloat16, for which this {kind} has arithmetic; "
        f"--model.training.precision trainer keeps float32."
        if native
        else f"Training steps are computed in float32: this {kind} only emulates bfloat16."
    )
    return native
