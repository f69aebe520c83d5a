# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Compare recipes of Grad on many products in one model: each product, mean and worst, over several seeds.

python examples/study --root ../shared/data --weights ../shared/weights/mobilenetv2_100.safetensors
python examples/study --generated results/generated ...      # two generated products that informed no choice

A recipe's result is biased on the products on which it was chosen. One table therefore holds out each product in turn.
Results are stored as they are computed: run the same command again to resume.
"""

import argparse
from pathlib import Path
from typing import Any

from evaluate import STRESSES, figures, nearest_scorer, network_scorer, training_sample
from generated import write
from recipes import FAITHFUL, GROUPS, NEAREST, PLUS, Row, train
from storing import digest, load_or_compute
from tables import baseline_table, held_out_table, main_table, pixel_table, stress_table

from anomalib_grad import MultiCategory
from anomalib_grad.backbone.weights import BackboneWeightsError
from anomalib_grad.files.refusals import message

BACKBONE = "mobilenetv2_100"


def run(rows: dict[str, Row], seed: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train once, score with every row's method, and return each row's metrics."""
    model, data, seconds = train(next(iter(rows.values())), seed, args)
    data.setup("test")
    sample = training_sample(model, data)
    results = {}
    for name, row in rows.items():
        scorer = nearest_scorer(model, sample) if row.scoring is None else network_scorer(model, row.scoring, sample)
        results[name] = {**figures(model, data, scorer, stressed=not row.scoring), "train_s": seconds}
    return results


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with one MVTec-AD-style folder per product")
    parser.add_argument("--generated", type=Path, help="generate two products in this folder and use it as --root")
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--weights", type=Path, help="local weight file of the backbone; default: timm's own")
    parser.add_argument("--group", choices=GROUPS, default="better", help="group of rows to run")
    parser.add_argument("--only", nargs="+", help="rows of the group to run; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="folder for results and tables")
    args = parser.parse_args()
    unknown = set(args.only or []) - set(GROUPS[args.group])
    if unknown:
        parser.error(f"group {args.group} has no rows {sorted(unknown)}; choose from {list(GROUPS[args.group])}")
    if (args.root is None) == (args.generated is None):
        parser.error("give either --root with products, or --generated to generate some")
    if args.weights is not None and not args.weights.is_file():
        parser.error(f"there is no file {args.weights}: give the weights of {args.backbone}")
    if args.generated is not None:
        write(args.generated)
        args.root = args.generated
    return args


def study(args: argparse.Namespace) -> str:
    """Run the requested rows that are not stored yet, and return the tables."""
    conditions = {"root": str(args.root.resolve()), "weights": None if args.weights is None else digest(args.weights)}
    group = GROUPS[args.group]
    chosen = [name for name in group if name in (args.only or group)]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for seed in args.seeds:
        for name in chosen:
            weights = group[name].recipe, group[name].arguments
            members = {other: row for other, row in group.items() if (row.recipe, row.arguments) == weights}
            slug = "".join(letter if letter.isalnum() else "_" for letter in f"{args.root.name} {next(iter(members))}")
            file = args.out / f"{slug}_{args.backbone}_{seed}.json"
            found: Any = load_or_compute(
                file, lambda members=members, seed=seed: {"conditions": conditions, "rows": run(members, seed, args)}
            )
            if found.get("conditions") != conditions:
                raise ValueError(f"{file} was computed on other data or weights: give those, or another --out.")
            rows[name].append(found["rows"][name])
    categories = MultiCategory(root=args.root).categories
    tables = [main_table(rows, categories), pixel_table(rows, categories)]
    baselines = [name for name in (FAITHFUL, NEAREST) if name in rows]
    if baselines:
        tables.append(baseline_table(rows, categories, baselines))
        if len(categories) > 1:  # a single one cannot be held out
            tables.append(held_out_table(rows, categories, [*baselines, *({PLUS} & set(rows))]))
    stressed = {name: runs for name, runs in rows.items() if not group[name].scoring}
    tables.append(stress_table(stressed, categories, list(STRESSES)))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.group}_{args.root.name}_{args.backbone}.md").write_text("\n\n".join(tables) + "\n")
    return "\n\n".join(tables)


def main() -> None:
    """Run the study and print its tables."""
    args = arguments()
    try:
        print(f"\n{study(args)}")
    except (OSError, ValueError, BackboneWeightsError) as error:
        raise SystemExit(f"error: {message(error)}") from error


if __name__ == "__main__":
    main()
