# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which ways to compute a training step of the head pay: memory format, optimiser, number format, torch.compile.

python tests/benchmarks/head_step.py [--fusion small] [--channels 128] [--threads 1]

Twins of the head train on the same random features in turns, in one process; the first row is what the published
recipes do. ``precision: auto`` takes "bfloat16 mixed" where the processor has arithmetic for it.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from measure import in_turns, machine, markdown
from torch import Tensor
from torch.nn import functional

from anomalib_grad.components.head import GradHead
from anomalib_grad.components.representation import FUSIONS
from anomalib_grad.training.precision import computes_bfloat16

CELLS = (28, 28)


class Way(NamedTuple):
    """How a step is computed."""

    channels_last: bool = False
    optimiser: str = "loop"  # loop (torch's choice on a CPU), foreach or fused
    bfloat16: bool = False
    compiled: bool = False


WAYS = {
    "float32": Way(),
    "channels last": Way(channels_last=True),
    "AdamW foreach": Way(optimiser="foreach"),
    "AdamW fused": Way(optimiser="fused"),
    "bfloat16 mixed": Way(bfloat16=True),
    "bfloat16 mixed, channels last": Way(bfloat16=True, channels_last=True),
    "torch.compile": Way(compiled=True),
    "torch.compile, bfloat16 mixed": Way(compiled=True, bfloat16=True),
}


def training_step(way: Way, features: Tensor, fusion: str) -> Callable[[], object]:
    """Build a head and give the function that trains it for a step on features ``(B, C, 28, 28)``."""
    torch.manual_seed(0)
    head = GradHead(features.shape[1], CELLS, fusion=fusion, mse_threshold=1.0).train()
    groups = [{"params": head.network_parameters()}, {"params": head.grid_parameters(), "lr": 0.1}]
    kind = {} if way.optimiser == "loop" else {way.optimiser: True}
    optimiser = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.01, **kind)
    if way.channels_last:
        head, features = head.to(memory_format=torch.channels_last), features.to(memory_format=torch.channels_last)
    refine = torch.compile(head) if way.compiled else head

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.bfloat16):
            loss = functional.mse_loss(refine(features).refined.float(), features)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1)
        optimiser.step()

    return step


def main() -> None:
    """Measure all ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusion", default="small", choices=FUSIONS)
    parser.add_argument(
        "--channels", type=int, default=128, help="of the features: 128 MobileNetV2, 216 EfficientNet-B4"
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    features = torch.randn(args.batch_size, args.channels, *CELLS)
    timings = in_turns({name: training_step(WAYS[name], features, args.fusion) for name in args.only}, args.rounds)
    first = timings[args.only[0]]
    rows = [
        [name, f"{1e3 * time.wall:.0f}", f"{1e3 * time.cpu:.0f}", f"{first.cpu / time.cpu:.2f}"]
        for name, time in timings.items()
    ]
    print(markdown(["a step of the head", "ms", "CPU ms", "times as fast"], rows))
    chosen = "bfloat16" if computes_bfloat16(torch.device("cpu")) else "float32"
    print(f"\nprecision: auto computes steps in {chosen} on this processor")
    print(f"{args.fusion}, {args.channels} channels, batch {args.batch_size}, {args.threads} threads; {machine()}")


if __name__ == "__main__":
    main()
