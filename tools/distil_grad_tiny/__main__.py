# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Command line: ``python -m tools.distil_grad_tiny --teacher mobilenetv2_100.safetensors --out runs/distil``."""

import argparse
import sys
import time
from pathlib import Path

import torch

from .batches import CropSource
from .distil import Distillation, Recipe, export


class Progress:
    """Prints unexplained variance, speed and remaining time every ``every`` steps; saves every ``save_every`` steps."""

    def __init__(
        self, distillation: Distillation, checkpoint: Path, *, until: int, every: int, save_every: int
    ) -> None:
        self.distillation, self.checkpoint = distillation, checkpoint
        self.until, self.every, self.save_every = until, every, save_every
        self.sums, self.count = [0.0, 0.0], 0
        self.start, self.first = time.monotonic(), distillation.step

    def __call__(self, step: int, losses: list[float]) -> None:
        """Record one step, and print and save if due."""
        self.sums = [total + loss for total, loss in zip(self.sums, losses, strict=True)]
        self.count += 1
        if step % self.every == 0 or step == self.until:
            pace = (time.monotonic() - self.start) / (step - self.first)
            fine, coarse = (total / self.count for total in self.sums)
            sys.stdout.write(
                f"step {step}/{self.until}  unexplained variance: stride 8 {fine:.3f}, stride 16 {coarse:.3f}  "
                f"{pace:.2f} s a step, {pace * (self.until - step) / 60:.0f} min left\n"
            )
            sys.stdout.flush()
            self.sums, self.count = [0.0, 0.0], 0
        if step % self.save_every == 0 or step == self.until:
            save(self.distillation, self.checkpoint)


def save(distillation: Distillation, checkpoint: Path) -> None:
    """Write the state; an interruption leaves either the old or the new file."""
    partial = checkpoint.with_suffix(".partial")
    torch.save(distillation.state_dict(), partial)
    partial.replace(checkpoint)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.distil_grad_tiny", description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="timm weights of mobilenetv2_100 (safetensors)")
    parser.add_argument("--out", type=Path, required=True, help="folder for state.pt and grad_tiny.safetensors")
    parser.add_argument("--steps", type=int, default=5000, help="length of the schedule in steps")
    parser.add_argument(
        "--cooldown", type=int, default=1500, help="last steps, in which the learning rate falls to zero"
    )
    parser.add_argument("--grain-from", type=int, default=0, help="first step with images of grain")
    parser.add_argument("--stop-at", type=int, help="stop at this step of the schedule; continue later with --resume")
    parser.add_argument("--resume", action="store_true", help="continue from state.pt in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=192, help="procedural images in memory")
    parser.add_argument("--print-every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument(
        "--float32", action="store_true", help="train in float32, not bfloat16 (slower on recent processors)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, save and export."""
    options = parse(arguments)
    checkpoint = options.out / "state.pt"
    if not options.teacher.is_file():
        raise SystemExit(f"no teacher weights at {options.teacher}: give timm's mobilenetv2_100 as a safetensors file.")
    if options.resume and not checkpoint.is_file():
        raise SystemExit(f"nothing to resume: there is no {checkpoint}; start without --resume.")
    if not options.resume and checkpoint.is_file():
        raise SystemExit(f"{checkpoint} exists: continue from it with --resume, or choose another --out.")
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(steps=options.steps, cooldown=options.cooldown, seed=options.seed, bfloat16=not options.float32)
    distillation = Distillation(
        options.teacher, recipe, CropSource(options.seed, pool=options.pool, grain_from=options.grain_from)
    )
    if options.resume:
        distillation.load_state_dict(torch.load(checkpoint, weights_only=True))
    until = min(options.stop_at or options.steps, options.steps)
    progress = Progress(distillation, checkpoint, until=until, every=options.print_every, save_every=options.save_every)
    distillation.run(until, progress)
    export(distillation, options.out / "grad_tiny.safetensors")


if __name__ == "__main__":
    main()
