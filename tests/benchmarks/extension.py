# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a model of several products makes of them before and after a product more, whose images alone are there.

python tests/benchmarks/extension.py --root ../shared/data --new screw --weights FILE   # of mobilenetv2_100
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anomalib.engine import Engine
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from measure import markdown

from anomalib_grad import Grad, MultiCategory

HEADERS = ("products", "image AUROC", "pixel AUROC", "false alarms", "missed", "recognised")


class Verdicts(Callback):
    """Counts verdicts by category; behind the post-processor, which makes them."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def setup(self, trainer: Trainer, pl_module: Grad, stage: str) -> None:
        trainer.callbacks = [*(other for other in trainer.callbacks if other is not self), self]

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Grad, outputs: object, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        labels = zip(batch.category, batch.pred_label.tolist(), batch.gt_label.tolist(), batch.explanation, strict=True)
        for name, found, truth, taken_for in labels:
            self.counts[name, "anomalous" if truth else "normal"] += 1
            self.counts[name, "missed" if truth else "alarms"] += found != truth
            self.counts[name, "recognised"] += taken_for == name


def engine(folder: Path, *callbacks: Callback) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, callbacks=list(callbacks))


def rows(stage: str, model: Grad, data: MultiCategory, folder: Path) -> list[tuple[str, ...]]:
    """Test a model; a row for each product."""
    verdicts = Verdicts()
    found = engine(folder, verdicts).test(model, datamodule=data, verbose=False)[0]
    count = verdicts.counts
    return [
        (
            f"{name} ({stage})",
            f"{100 * found[f'{name}/image_AUROC']:.1f}",
            f"{100 * found.get(f'{name}/pixel_AUROC', float('nan')):.1f}",
            f"{count[name, 'alarms']} of {count[name, 'normal']}",
            f"{count[name, 'missed']} of {count[name, 'anomalous']}",
            f"{count[name, 'recognised']} of {count[name, 'normal'] + count[name, 'anomalous']}",
        )
        for name in data.categories
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder per product")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--weights", type=Path, help="local weight file of the backbone; default: timm's own")
    parser.add_argument("--new", required=True, help="the product that comes later")
    parser.add_argument("--steps", type=int, default=1000, help="of the old model")
    parser.add_argument("--more", type=int, default=200, help="steps of its extension")
    args = parser.parse_args()

    def data(names: list[str]) -> MultiCategory:
        return MultiCategory(root=args.root, categories=names, train_batch_size=16, eval_batch_size=16, num_workers=0)

    def train(names: list[str], steps: int, folder: Path, **arguments: Any) -> tuple[Grad, float]:
        seed_everything(0, verbose=False)
        model = Grad(
            "plus",
            backbone=args.backbone,
            pre_trained=args.weights or True,
            training={"steps": steps, "least_passes": 1},
            visualizer=False,
            **arguments,
        )
        begin = time.process_time()
        engine(folder).fit(model, datamodule=data(names))
        return model, time.process_time() - begin

    products = list(MultiCategory(root=args.root).categories)
    others = [name for name in products if name != args.new]
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        old, seconds = train(others, args.steps, folder / "old")
        table = rows("before", old, data(others), folder / "before")
        old.trainer.save_checkpoint(folder / "old.ckpt")
        extended, more = train([args.new], args.more, folder / "extended", extends=folder / "old.ckpt")
        table += rows("after", extended, data(products), folder / "after")
    print(f"\n{seconds:.0f} CPU s for the old model, {more:.0f} for its extension\n\n{markdown(HEADERS, table)}")


if __name__ == "__main__":
    main()
