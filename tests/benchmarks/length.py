# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How long a recipe has to be trained, by the number of images and of products.

python tests/benchmarks/length.py --root ../shared/data --weights ../shared/weights/mobilenetv2_100.safetensors

Images are drawn evenly from the products, as far as each has them; every product is tested on all of its test images.
Numbers beyond those that there are repeat images. Features are computed once for each set of images.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from shutil import rmtree

import numpy as np
from measure import machine, markdown

from anomalib_grad import MultiCategory
from anomalib_grad.training.feature_statistics import evenly_spaced

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))  # before this folder, which has recipes, too
from evaluate import figures, network_scorer, training_sample
from recipes import Row, train
from recipes import steps as lasting


def shares(available: Sequence[int], images: int) -> list[int]:
    """How many images each product gives: as many each, as far as it has them; all together when all are not enough."""
    repeats, rest = divmod(images, sum(available))
    taken = [0] * len(available)
    while sum(taken) < rest:
        for product, there in enumerate(available):
            taken[product] += taken[product] < there and sum(taken) < rest
    return [repeats * there + one for there, one in zip(available, taken, strict=True)]


def draw(source: Path, products: Sequence[str], images: int, target: Path) -> None:
    """Link training images, evenly from each product, and all of its test images, in the place of what was there."""
    rmtree(target, ignore_errors=True)
    files = [sorted((source / product / "train" / "good").iterdir()) for product in products]
    for product, found, share in zip(products, files, shares([*map(len, files)], images), strict=True):
        folder = target / product / "train" / "good"
        folder.mkdir(parents=True)
        for row, index in enumerate(islice(cycle(evenly_spaced(range(len(found)), min(share, len(found)))), share)):
            (folder / f"{row:05}{found[index].suffix}").symlink_to(found[index].resolve())
        for part in ("test", "ground_truth"):
            if (source / product / part).exists():
                (target / product / part).symlink_to((source / product / part).resolve())


def run(root: Path, steps: int, seed: int, args: argparse.Namespace) -> list[str]:
    """Train for some steps; gives the figures of a row."""
    drawn = argparse.Namespace(**{**vars(args), "root": root})
    model, data, seconds = train(Row(args.recipe, lasting(steps)), seed, drawn, args.batch_size)
    data.setup("test")
    scorer = network_scorer(model, {}, training_sample(model, data))
    found = figures(model, data, scorer, stressed=False)
    own = [100 * found[f"{name}/image_AUROC"] for name in data.categories]
    pixels = (100 * found[f"mean/pixel_{name}"] for name in ("AUROC", "AUPRO"))
    cells = [*(f"{value:.1f}" for value in (np.mean(own), min(own), *pixels)), f"{seconds:.0f}"]
    return [str(model.trainer.global_step), *cells]


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one MVTec-AD-style folder per product")
    parser.add_argument("--categories", nargs="+", help="some of the products; default: all")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--weights", type=Path, help="local weight file of the backbone; default: its own")
    parser.add_argument("--recipe", default="plus")
    parser.add_argument("--images", type=int, nargs="+", default=[48, 200, 600, 1000, 3600])
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 1000, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--batch-size", type=int, default=16, help="of trainings")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--out", type=Path, default=Path("results/length"), help="where features are stored")
    args = parser.parse_args()
    products = args.categories or list(MultiCategory(root=args.root).categories)
    heads = ["images", "seed", "steps", "image AUROC", "worst", "pixel AUROC", "AUPRO", "CPU s"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for images in args.images:
            draw(args.root, products, images, Path(folder) / "products")
            for seed in args.seeds:
                for steps in args.steps:
                    rows.append([str(images), str(seed), *run(Path(folder) / "products", steps, seed, args)])
                    print(dict(zip(heads, rows[-1], strict=True)), flush=True)
    print(f"\n{markdown(heads, rows)}\n\n{args.recipe}, {args.backbone}, {', '.join(products)}; {machine()}")


if __name__ == "__main__":
    main()
