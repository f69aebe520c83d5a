# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Every recipe on the same products in one model, side by side: training time, share of validation, accuracy.

python tests/benchmarks/recipes.py --root ../shared/data [--weights ../shared/weights/mobilenetv2_100.safetensors]

Recipes take turns, seed after seed, so that what else the machine does hits all alike; times are CPU seconds without
feature extraction, which is the same for all recipes of an image size and done once.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from anomalib.engine import Engine
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from measure import machine, markdown

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.recipes import RECIPES
from anomalib_grad.settings import CacheSettings

METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
PRODUCTS = ("ballscrew", "bottle", "commutator", "cookie")


class Clock(Callback):
    """CPU seconds from the first training step to the end, and those of validation among them."""

    def __init__(self) -> None:
        self.total = self.validation = self._start = self._validation_start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start; features are there."""
        del trainer, pl_module
        self._start = time.process_time()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the part of validation."""
        del trainer, pl_module
        self._validation_start = time.process_time()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the part, apart from the check before training."""
        del pl_module
        if not trainer.sanity_checking:
            self.validation += time.process_time() - self._validation_start

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        del trainer, pl_module
        self.total = time.process_time() - self._start


def run(name: str, seed: int, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train and test one recipe; gives CPU seconds, the share of validation and the mean figures."""
    seed_everything(seed, verbose=False)
    clock = Clock()
    data = MultiCategory(
        root=args.root, categories=args.categories, train_batch_size=16, eval_batch_size=16, num_workers=0
    )
    model = Grad(
        name,
        args.backbone,
        pre_trained=args.weights or True,
        feature_cache="disk",
        cache=CacheSettings(folder=args.features),
        visualizer=False,
    )
    limits: dict[str, Any] = {} if args.max_epochs is None else {"max_epochs": args.max_epochs}
    engine = Engine(callbacks=[clock], default_root_dir=folder, logger=False, **limits)
    engine.fit(model, datamodule=data)
    (figures,) = engine.test(model, datamodule=data)
    return {
        "seconds": clock.total,
        "share": clock.validation / clock.total,
        "steps": engine.trainer.global_step,
        **{metric: figures[f"mean/{metric}"] for metric in METRICS},
    }


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one MVTec-AD-style folder per product")
    parser.add_argument("--categories", nargs="+", default=list(PRODUCTS))
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--weights", type=Path, help="local weight file of the backbone; default: its own")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max-epochs", type=int, help="of every recipe; default: its own length")
    parser.add_argument("--features", type=Path, default=Path("results/recipes/features"), help="folder of the cache")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    for seed in args.seeds:
        for name in args.only:
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(run(name, seed, args, Path(folder)))
    rows = []
    for name, runs in found.items():
        mean = {key: float(np.mean([figures[key] for figures in runs])) for key in runs[0]}
        accuracy = [f"{100 * mean[metric]:.1f}" for metric in METRICS]
        rows.append([name, f"{mean['steps']:.0f}", f"{mean['seconds']:.0f}", f"{100 * mean['share']:.1f} %", *accuracy])
    print(markdown(["recipe", "steps", "train CPU s", "validation", "image AUROC", "pixel AUROC", "AUPRO"], rows))
    print(f"\n{args.backbone}, {', '.join(args.categories)}, {len(args.seeds)} seed(s); {machine()}")


if __name__ == "__main__":
    main()
