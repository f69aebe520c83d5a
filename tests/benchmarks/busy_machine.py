# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a training step takes beside other programs that compute, by how long torch's threads wait busily.

python tests/benchmarks/busy_machine.py [--steps 8] [--rounds 3]

GOMP_SPINCOUNT is read when torch is loaded, so each measurement has its own process; all kinds in each round, so that
what else the machine does hits all alike. On Linux.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from measure import markdown

from anomalib_grad import GradModel

SPIN_COUNTS = ("", "1000", "0")  # "": the default of GNU's OpenMP, hundreds of thousands of turns


@contextmanager
def other_programs(number: int) -> Iterator[None]:
    """Run programs meanwhile that keep a core busy each."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def print_milliseconds_a_step(steps: int) -> None:
    """Train the network on noise and print the wall time of a step."""
    torch.manual_seed(0)
    network = GradModel("grad_tiny", fusion="small").train()
    optimiser = torch.optim.AdamW(network.head.parameters(), lr=1e-4)
    images = torch.rand(8, 3, 224, 224)
    for step in range(steps + 1):
        if step == 1:  # the first allocates memory
            start = time.perf_counter()
        output = network(images)
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(output.refined, output.features).backward()
        optimiser.step()
    print(1e3 * (time.perf_counter() - start) / steps)


def milliseconds_a_step(spin_count: str, steps: int) -> float:
    """Measure in a process of its own; an empty ``spin_count`` is the default."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    if spin_count:
        environment["GOMP_SPINCOUNT"] = spin_count
    command = [sys.executable, __file__, "--steps", str(steps), "--measure"]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure all kinds in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print_milliseconds_a_step(args.steps)
        return
    loads = {"ms a step, idle machine": 0, "one core busy": 1, "all cores busy": os.cpu_count() or 1}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(args.rounds):
        for spin_count in SPIN_COUNTS:
            for load, number in loads.items():
                with other_programs(number):
                    times.setdefault((spin_count, load), []).append(milliseconds_a_step(spin_count, args.steps))
    rows = [
        (spin_count or "not set", *(f"{np.median(times[spin_count, load]):.0f}" for load in loads))
        for spin_count in SPIN_COUNTS
    ]
    print(markdown(("GOMP_SPINCOUNT", *loads), rows))


if __name__ == "__main__":
    main()
