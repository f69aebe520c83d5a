# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Precision of training steps, if the user leaves it to the machine.

bfloat16 halves the time of a step on a processor or GPU with native support, but is several times slower if emulated;
``tests/benchmarks/head_step.py`` prints the ratio. Weights and optimiser stay in float32, so training can resume from a
checkpoint on any other machine.
"""

import lightning.pytorch as pl
import torch


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a device supports bfloat16 natively, without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def takes_bfloat16(precision: str, module: pl.LightningModule) -> bool:
    """Decide whether steps are computed in bfloat16, and print the decision.

    Return ``False`` silently if the settings (``training.precision``) or the trainer's arguments choose a precision.
    """
    if precision != "auto" or module.trainer.precision != "32-true":
        return False
    kind, native = module.device.type, computes_bfloat16(module.device)
    module.print(
        f"Training steps are computed in bfloat16, which this {kind} supports; "
        f"--model.training.precision trainer keeps float32."
        if native
        else f"Training steps are computed in float32: this {kind} only emulates bfloat16."
    )
    return native
