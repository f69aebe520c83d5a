# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a training step costs through anomalib's Engine, with and without the feature cache, against the head alone.

python tests/benchmarks/training_step.py [--images 160] [--precision bf16-mixed]

After every epoch of the Engine a twin of the head trains as many steps on features that are ready; both run in turn in
one process, so that the ratio of their times does not depend on what else the machine does.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.engine import Engine
from lightning import Callback, seed_everything
from PIL import Image
from torch.nn import functional

from anomalib_grad import Grad, MultiCategory

SIDE = 900  # of the generated photographs, in pixels


def write_images(root: Path, count: int) -> None:
    """Write noisy photographs of one product in MVTec AD's layout."""
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    for split, images in (("train/good", count), ("test/good", 2), ("test/spot", 2)):
        folder = root / "product" / split
        folder.mkdir(parents=True)
        for number in range(images):
            picture = np.roll(base, number, axis=1).repeat(8, 0).repeat(8, 1)
            Image.fromarray(picture).save(folder / f"{number:05d}.png", compress_level=1)


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Append the seconds that a block takes."""
    start = time.perf_counter()
    yield
    times.append(time.perf_counter() - start)


class HeadAlone(Callback):
    """Trains a twin of the head after each epoch, on features that are ready."""

    def __init__(self) -> None:
        self.engine: list[float] = []
        self.head: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock of the Engine."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop it, and take the same number of steps with the head alone."""
        self.engine.append(time.perf_counter() - self._start)
        if trainer.current_epoch == 0:
            self.twin = copy.deepcopy(pl_module.model.head)
            groups = [{"params": self.twin.network_parameters()}, {"params": self.twin.grid_parameters(), "lr": 0.1}]
            self.optimiser = torch.optim.AdamW(groups, lr=1e-3)
            shape = (trainer.train_dataloader.batch_size, pl_module.model.backbone.channels)
            self.features = torch.rand(*shape, *pl_module.model.backbone.feature_size)
        with timed(self.head):
            for _ in range(trainer.num_training_batches):
                self._step(trainer)

    def _step(self, trainer: Any) -> None:
        with trainer.precision_plugin.forward_context():
            loss = functional.mse_loss(self.twin(self.features).refined, self.features)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.twin.parameters(), 0.1)
        self.optimiser.step()


def measure(root: Path, args: argparse.Namespace, cache: str | bool) -> tuple[float, float]:
    """Give the median seconds of an epoch from the second on: through the Engine, and of the head alone."""
    seed_everything(0, verbose=False)
    clock = HeadAlone()
    data = MultiCategory(root=root, train_batch_size=args.batch_size, num_workers=args.num_workers)
    model = Grad(
        args.backbone, pre_trained=args.weights or False, fusion=args.fusion,
        feature_cache=cache, cache={"folder": root / "cache"}, evaluator=False, visualizer=False,
    )  # fmt: skip
    Engine(
        max_epochs=args.epochs,
        check_val_every_n_epoch=args.epochs + 1,
        callbacks=[clock],
        precision=args.precision,
        default_root_dir=root / "results",
        logger=False,
    ).fit(model, datamodule=data)
    return float(np.median(clock.engine[1:])), float(np.median(clock.head[1:]))


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--weights", help="local weight file; default: random weights, which cost the same")
    parser.add_argument("--fusion", default="small")
    parser.add_argument("--precision", default="32-true")
    args = parser.parse_args()
    steps = -(-args.images // args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), args.images)
        print("| features | ms a step | head alone | head / step |\n|---|---|---|---|")
        for name, cache in (("computed in every epoch", False), ("cached in memory", "memory"), ("on disk", "disk")):
            engine, head = measure(Path(folder), args, cache)
            print(f"| {name} | {1e3 * engine / steps:.0f} | {1e3 * head / steps:.0f} | {head / engine:.2f} |")


if __name__ == "__main__":
    main()
