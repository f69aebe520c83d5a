# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Compare recipes of Grad on many categories in one model: accuracy and training time over several seeds, in one table.

python examples/study.py --root ../shared/data --weights ../shared/weights/mobilenetv2_100.safetensors

A recipe is chosen on some categories and judged on another: the second table leaves each category out of the choice in
turn. Rows are stored as they finish; the same command goes on where it stopped.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from anomalib.engine import Engine
from compare import BACKBONE, BATCH_SIZE, METRICS, stored
from lightning import seed_everything

from anomalib_grad import Grad, MultiCategory


class Recipe(NamedTuple):
    """A variant: how long it trains, and the arguments that differ from the published ``small`` recipe."""

    steps: int
    arguments: dict[str, Any]
    precision: str = "32-true"


COSINE = {"lr_schedule": "cosine", "warmup_steps": 20}
TRIPLE = {"learning_rate": 3e-3, "grid_learning_rate": 0.3}
RECIPES = {
    "published (50 epochs)": Recipe(1900, {}),
    "constant rate, 300 steps": Recipe(300, {"lr_step": 10_000}),
    "cosine, 150 steps": Recipe(150, COSINE),
    "cosine, 300 steps": Recipe(300, COSINE),
    "cosine, 600 steps": Recipe(600, COSINE),
    "cosine, 300 steps, bf16": Recipe(300, COSINE, "bf16-mixed"),
    "cosine, 450 steps, bf16": Recipe(450, COSINE, "bf16-mixed"),
    "cosine, 300 steps, 4 blocks, bf16": Recipe(300, {**COSINE, "num_blocks": 4}, "bf16-mixed"),
    "cosine, 600 steps, 4 blocks, bf16": Recipe(600, {**COSINE, "num_blocks": 4}, "bf16-mixed"),
    "cosine, 200 steps, rates x 3, bf16": Recipe(200, {**COSINE, **TRIPLE}, "bf16-mixed"),
    "cosine, 300 steps, rates x 3, bf16": Recipe(300, {**COSINE, **TRIPLE}, "bf16-mixed"),
    "cosine, 450 steps, rates x 3, bf16": Recipe(450, {**COSINE, **TRIPLE}, "bf16-mixed"),
    "cosine, 400 steps, 4 blocks, rates x 3, bf16": Recipe(400, {**COSINE, **TRIPLE, "num_blocks": 4}, "bf16-mixed"),
    "cosine, 300 steps, clip 1": Recipe(300, {**COSINE, "clip_norm": 1.0}),
    "cosine, 300 steps, 4 blocks": Recipe(300, {**COSINE, "num_blocks": 4}),
    "cosine, 600 steps, 4 blocks": Recipe(600, {**COSINE, "num_blocks": 4}),
    "cosine, 300 steps, local grid 16": Recipe(300, {**COSINE, "local_resolution": 16}),
    "cosine, 300 steps, global grid 8": Recipe(300, {**COSINE, "global_resolution": 8}),
    "cosine, 300 steps, windows 9 and 16": Recipe(300, {**COSINE, "smoothing_window": 9, "score_window": 16}),
    "cosine, 300 steps, rates x 3": Recipe(300, {**COSINE, **TRIPLE}),
}


def run(recipe: Recipe, seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and test one recipe with one seed; gives its row."""
    seed_everything(seed, verbose=False)
    data = MultiCategory(
        root=args.root, train_batch_size=BATCH_SIZE, eval_batch_size=BATCH_SIZE, num_workers=args.num_workers
    )
    data.setup()
    epochs = math.ceil(recipe.steps * BATCH_SIZE / len(data.train_data))
    model = Grad(
        args.backbone, pre_trained=args.weights or True, **{"fusion": "small", **recipe.arguments},
        feature_cache="disk", feature_cache_dir=args.out / "features", visualizer=False,
    )  # fmt: skip
    trainer = {"default_root_dir": folder, "logger": False}
    engine = Engine(
        max_epochs=epochs, max_steps=recipe.steps, check_val_every_n_epoch=epochs, precision=recipe.precision, **trainer
    )
    start = time.process_time()
    engine.fit(model, datamodule=data)
    seconds = time.process_time() - start
    (results,) = Engine(**trainer).test(model, datamodule=data)  # in full precision, whatever the training's
    metrics = {name: value for name, value in results.items() if name.rpartition("/")[2] in METRICS}
    return {**metrics, "train_s": seconds}


def cell(values: list[float], digits: int = 1) -> str:
    """Mean and standard deviation of a figure over the seeds."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def table(rows: dict[str, list[dict[str, Any]]], categories: list[str]) -> str:
    """Render mean and spread of every recipe; percent, training in CPU seconds."""
    heads = ["recipe", *categories, "image AUROC", "pixel AUROC", "AUPRO", "F1Max", "train CPU s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, runs in rows.items():
        cells = [cell([100 * row[f"{category}/image_AUROC"] for row in runs]) for category in categories]
        cells += [cell([100 * row[f"mean/{metric}"] for row in runs]) for metric in METRICS]
        lines.append("| " + " | ".join([name, *cells, cell([row["train_s"] for row in runs], 0)]) + " |")
    return "\n".join(lines)


def held_out_table(rows: dict[str, list[dict[str, Any]]], categories: list[str], reference: str) -> str:
    """Choose the recipe by the image AUROC of all categories but one, and report that one's against a reference."""
    auroc = {
        name: {category: 100 * np.mean([row[f"{category}/image_AUROC"] for row in runs]) for category in categories}
        for name, runs in rows.items()
    }
    lines = [f"| left out | chosen on the others | its image AUROC | of '{reference}' |", "|---|---|---|---|"]
    for left_out in categories:
        others = [category for category in categories if category != left_out]
        chosen = max(auroc, key=lambda name: np.mean([auroc[name][category] for category in others]))
        lines.append(f"| {left_out} | {chosen} | {auroc[chosen][left_out]:.1f} | {auroc[reference][left_out]:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and is not yet stored, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one MVTec-AD-style folder per product")
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--weights", type=Path, help="local weight file of the backbone; default: timm's own")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), help="recipes; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="where finished rows are stored")
    args = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in args.only}
    for seed in args.seeds:
        for name in args.only:
            slug = "".join(letter if letter.isalnum() else "_" for letter in name)
            folder = args.out / f"{slug}_{seed}"
            rows[name].append(
                stored(folder.with_suffix(".json"), lambda n=name, s=seed, f=folder: run(RECIPES[n], s, args, f))
            )
    categories = MultiCategory(root=args.root).categories
    tables = [table(rows, categories), held_out_table(rows, categories, args.only[0])]
    (args.out / "table.md").write_text("\n\n".join(tables) + "\n")
    print("\n" + "\n\n".join(tables))


if __name__ == "__main__":
    main()
