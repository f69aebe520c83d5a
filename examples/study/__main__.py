# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Compare recipes of Grad on many categories in one model, over several seeds: accuracy, training time, latency.

python examples/study --root ../shared/data --weights ../shared/weights/mobilenetv2_100.safetensors
python examples/study --group fast --root ...

A recipe is chosen on some categories and judged on another: the second table leaves each category out of the choice in
turn. Recipes that differ in scoring only share their training. Figures are stored as they are found; the same command
goes on where it stopped.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from anomalib.engine import Engine
from lightning import seed_everything

sys.path.insert(0, str(Path(__file__).parents[1]))
from compare import BACKBONE, BATCH_SIZE, stored
from evaluate import Whitening, distances, figures
from recipes import GROUPS, Recipe, Training
from tables import held_out_table, main_table

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.anomaly_map import AnomalyMapGenerator
from anomalib_grad.stored_settings import grouped
from anomalib_grad.torch_model import DISTANCES


def build(training: Training, args: argparse.Namespace, **arguments: Any) -> Grad:  # noqa: ANN401  # Grad's
    """Build the model of a training."""
    share = arguments.pop("score_share", None)
    model = training.kind(
        pre_trained=args.weights or True,
        **grouped({"backbone": args.backbone, "fusion": "small", **training.arguments, **arguments}),
        feature_cache="disk",
        cache={"folder": args.out / "features"},
        evaluator=False,
        visualizer=False,
    )
    if share is not None:
        network, own = model.model, model.settings.map
        network.anomaly_map_generator = AnomalyMapGenerator(
            network.backbone.feature_size, network.backbone.image_size, own.smoothing_window, score_share=share
        )
    return model


def train(training: Training, seed: int, args: argparse.Namespace) -> tuple[Grad, MultiCategory, float]:
    """Train without validation; gives the model, its data and the CPU seconds."""
    seed_everything(seed, verbose=False)
    data = MultiCategory(
        root=args.root, train_batch_size=BATCH_SIZE, eval_batch_size=BATCH_SIZE, num_workers=args.num_workers
    )
    data.setup()
    model = build(training, args)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            max_epochs=math.ceil(training.steps * BATCH_SIZE / len(data.train_data)),
            max_steps=training.steps,
            limit_val_batches=0,
            precision=training.precision,
            default_root_dir=folder,
            logger=False,
        )
        start = time.process_time()
        engine.fit(model, datamodule=data)
        seconds = time.process_time() - start
    return model, data, seconds


def run(recipes: dict[str, Recipe], seed: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train once and score in the way of every recipe; gives the figures of each."""
    training = next(iter(recipes.values())).training
    model, data, seconds = train(training, seed, args)
    whitened = any(recipe.scoring.get("distance") in Whitening._fields for recipe in recipes.values())
    found = distances(model, data, whitened=whitened)
    return {name: {**figures(model, found, recipe.scoring), "train_s": seconds} for name, recipe in recipes.items()}


def latencies(recipes: dict[str, Recipe], args: argparse.Namespace, rounds: int = 40) -> dict[str, float]:
    """Median milliseconds of one image in OpenVINO on one thread, all models in turns."""
    compiled = {}
    exported = {name: own for name, own in recipes.items() if own.scoring.get("distance", "residual") in DISTANCES}
    for name, recipe in exported.items():
        with tempfile.TemporaryDirectory() as folder:
            path = build(recipe.training, args, **recipe.scoring).eval().to_openvino(folder)
            compiled[name] = ov.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": 1})
    image = np.random.default_rng(0).random((1, 3, 256, 256), dtype=np.float32)
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(rounds):
        for name, model in compiled.items():
            model(image)
            start = time.perf_counter()
            model(image)
            times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in times.items()}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one MVTec-AD-style folder per product")
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--weights", type=Path, help="local weight file of the backbone; default: timm's own")
    parser.add_argument("--group", choices=GROUPS, default="better", help="which recipes")
    parser.add_argument("--only", nargs="+", help="some recipes of the group; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--no-latency", action="store_true", help="do not export and time the models")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="where figures are stored")
    args = parser.parse_args()
    unknown = set(args.only or []) - set(GROUPS[args.group])
    if unknown:
        parser.error(f"no recipe {sorted(unknown)} in group {args.group}; there are {list(GROUPS[args.group])}")
    return args


def main() -> None:
    """Run what is asked for and is not yet stored, then print the tables."""
    args = arguments()
    group = GROUPS[args.group]
    recipes = {name: recipe for name, recipe in group.items() if name in (args.only or group)}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
    for seed in args.seeds:
        for name, recipe in recipes.items():
            members = {other: own for other, own in group.items() if own.training == recipe.training}
            slug = "".join(letter if letter.isalnum() else "_" for letter in next(iter(members)))
            file = args.out / f"{slug}_{seed}.json"
            found: Any = stored(file, lambda members=members, seed=seed: run(members, seed, args))
            rows[name].append(found[name])
    categories = MultiCategory(root=args.root).categories
    latency = {} if args.no_latency else latencies(recipes, args)
    tables = [main_table(rows, categories, latency), held_out_table(rows, categories, next(iter(recipes)))]
    (args.out / f"{args.group}.md").write_text("\n\n".join(tables) + "\n")
    print("\n" + "\n\n".join(tables))


if __name__ == "__main__":
    main()
