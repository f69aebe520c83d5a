# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What a model of several products makes of them before and after a product more.

python tests/benchmarks/extension.py --root ../shared/data --weights ../shared/weights/mobilenetv2_100.safetensors

Each product in turn is added to a model of the others: by its images alone, while features that the checkpoint carries
are replayed, and by training on the images of all, as it is from a checkpoint that carries none (``--curve``, steps of
such extensions). Both stand beside training anew. What is measured is kept in ``--out``, so that a run that was stopped
goes on where it was.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.engine import Engine
from lightning import seed_everything
from measure import machine, markdown
from remembered_features import remember, share_features
from sklearn.metrics import roc_auc_score

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.thresholds.rules import false_alarm_threshold
from anomalib_grad.training.feature_sample import SAMPLE_KEY, VALIDATION_KEY

BATCH_SIZE = 16
PROMISED = 0.1
HALVES = 2000

Images = dict[str, list[Any]]
"""Test images of a product: ``score``, ``anomalous``, ``alarm``, ``recognised``, a value each."""


class Bench:
    """Trains and tests models on some of the products.

    Args:
        args: The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.products = list(MultiCategory(root=args.root).categories)
        self.source = self.model({"steps": 1})
        self.fit(self.source, self.products, max_steps=1, limit_val_batches=0)

    def data(self, names: Sequence[str]) -> MultiCategory:
        """Images of some products."""
        return MultiCategory(
            root=self.args.root,
            categories=names,
            train_batch_size=BATCH_SIZE,
            eval_batch_size=BATCH_SIZE,
            num_workers=0,
        )

    def model(self, training: dict[str, Any], **arguments: Any) -> Grad:
        """A model to be trained."""
        seed_everything(self.args.seed, verbose=False)
        return Grad(
            self.args.recipe,
            backbone=self.args.backbone,
            pre_trained=self.args.weights or True,
            training=training,
            feature_cache="disk",
            cache={"folder": self.args.out / "features"},
            evaluator=False,
            visualizer=False,
            **arguments,
        )

    def fit(self, model: Grad, names: Sequence[str], **limits: Any) -> None:
        """Train on images of some products."""
        folder = self.args.out / "runs"
        engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, **limits)
        engine.fit(model, datamodule=self.data(names))

    def train(self, names: Sequence[str], steps: int, **arguments: Any) -> tuple[Grad, float]:
        """Train a model for some steps; gives the CPU seconds as well."""
        model = self.model({"steps": steps, "least_passes": 1}, **arguments)
        share_features(model, self.source)
        remember(model.model.backbone, self.args.out / "tested")
        begin = time.process_time()
        self.fit(model, names)
        return model.eval(), time.process_time() - begin

    @torch.no_grad()
    def test(self, model: Grad, names: Sequence[str]) -> dict[str, Images]:
        """What a model makes of the test images of some products."""
        data = self.data(names)
        data.setup("test")
        found: dict[str, Images] = {}
        for batch in data.test_dataloader():
            model.pre_processor.on_test_batch_start(None, model, batch, 0)
            model.predict_step(batch)
            scores = batch.pred_score.tolist()
            model.post_processor.post_process_batch(batch)
            known = [guess == name for guess, name in zip(batch.explanation, batch.category, strict=True)]
            columns = (scores, batch.gt_label.tolist(), batch.pred_label.tolist(), known)
            for name, *values in zip(batch.category, *columns, strict=True):
                own = found.setdefault(name, {"score": [], "anomalous": [], "alarm": [], "recognised": []})
                for column, value in zip(own.values(), values, strict=True):
                    column.append(value)
        return found


def auroc(images: Images) -> float:
    """Image AUROC in percent."""
    return 100 * float(roc_auc_score(images["anomalous"], images["score"]))


def counts(products: Iterable[Images]) -> tuple[str, str]:
    """False alarms and misses by the model's own thresholds."""
    alarm, anomalous = np.concatenate([np.array([own["alarm"], own["anomalous"]], bool) for own in products], axis=1)
    normal = ~anomalous
    return f"{(alarm & normal).sum()} of {normal.sum()}", f"{(~alarm & anomalous).sum()} of {anomalous.sum()}"


def realised(before: Images, after: Images) -> tuple[float, float, float]:
    """Shares of false alarms in percent where PROMISED was promised by a random half of the normal images.

    Counted on the other half: before; afterwards by the same threshold; and afterwards by one from the scores of now.
    """
    normal = ~np.array(before["anomalous"], bool)
    old, new = (np.array(images["score"])[normal] for images in (before, after))
    random, half = np.random.default_rng(0), len(old) // 2
    found = []
    for _ in range(HALVES):
        order = random.permutation(len(old))
        first, second = order[:half], order[half:]
        stays, follows = (false_alarm_threshold(scores[first].tolist(), PROMISED) for scores in (old, new))
        found.append([(old[second] > stays).mean(), (new[second] > stays).mean(), (new[second] > follows).mean()])
    shares = 100 * np.mean(found, axis=0)
    return float(shares[0]), float(shares[1]), float(shares[2])


def kept(file: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure, unless it was measured before."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(measure()))
        print(file, flush=True)
    return dict(json.loads(file.read_text()))


def without(bench: Bench, new: str, old: Path) -> dict[str, Any]:
    """Train a model of all products but one, and leave it in the file ``old``."""
    others = [name for name in bench.products if name != new]
    model, seconds = bench.train(others, bench.args.steps)
    model.trainer.save_checkpoint(old)
    return {"before": bench.test(model, others), "seconds": seconds}


def with_features(bench: Bench, new: str, old: Path) -> dict[str, Any]:
    """Add a product by its images alone to the model in the file ``old``."""
    extended, seconds = bench.train([new], bench.args.more, extends=old)
    return {"after": bench.test(extended, bench.products), "seconds": seconds}


def with_images(bench: Bench, steps: int, old: Path | None) -> dict[str, Any]:
    """Train on images of all products, anew or from an old model without its features."""
    if old is not None:
        bare = old.with_name("bare.ckpt")
        content = torch.load(old, weights_only=False)
        torch.save(content | {SAMPLE_KEY: {}, VALIDATION_KEY: {}}, bare)
        old = bare
    model, seconds = bench.train(bench.products, steps, extends=old)
    return {"after": bench.test(model, bench.products), "seconds": seconds}


def table_of_accuracy(found: dict[str, dict[str, Any]], anew: dict[str, Images]) -> str:
    """Image AUROC of each product before and after another came, and of the one that came, anew and after."""
    products = list(anew)
    before = {(new, name): own["before"].get(name, anew[name]) for new, own in found.items() for name in products}
    rows = [
        [name, *(f"{auroc(before[new, name]):.1f} → {auroc(own['after'][name]):.1f}" for new, own in found.items())]
        for name in products
    ]
    return markdown(["product", *(f"+ {new}" for new in found)], rows)


def table_of_verdicts(found: dict[str, dict[str, Any]]) -> str:
    """What became of the verdicts on the products that were there, by the product that came."""
    heads = ["new", "false alarms before", "after", "missed before", "after"]
    heads += [f"of {100 * PROMISED:.0f} %: before", "thresholds stay", "follow", "recognised"]
    rows = []
    for new, own in found.items():
        before, after = own["before"], {name: own["after"][name] for name in own["before"]}
        (alarms, missed), (alarms_now, missed_now) = counts(before.values()), counts(after.values())
        shares = np.mean([realised(before[name], after[name]) for name in before], axis=0)
        known = [one for images in own["after"].values() for one in images["recognised"]]
        cells = [alarms, alarms_now, missed, missed_now, *(f"{share:.1f}" for share in shares)]
        rows.append([new, *cells, f"{sum(known)} of {len(known)}"])
    return markdown(heads, rows)


def table_of_steps(curves: dict[str, dict[int, dict[str, Any]]], anew: dict[int, dict[str, Any]]) -> str:
    """Image AUROC of the new product and mean of the others, by steps with images of all."""
    heads = ["new", *(f"{steps}" for steps in next(iter(curves.values()))), *(f"anew, {steps}" for steps in anew)]
    rows = []
    for new, own in curves.items():
        tested = [run["after"] for run in (*own.values(), *anew.values())]
        means = [np.mean([auroc(images) for name, images in run.items() if name != new]) for run in tested]
        rows.append([new, *(f"{auroc(run[new]):.1f} / {mean:.1f}" for run, mean in zip(tested, means, strict=True))])
    return markdown(heads, rows)


def main() -> None:
    """Measure what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder per product")
    parser.add_argument("--recipe", default="plus")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--weights", type=Path, help="local weight file of the backbone; default: timm's own")
    parser.add_argument("--new", nargs="+", help="products that come later, each alone; default: all in turn")
    parser.add_argument("--steps", type=int, default=1000, help="of old models")
    parser.add_argument("--more", type=int, default=200, help="steps of extensions by the new product's images alone")
    parser.add_argument("--curve", type=int, nargs="*", default=[], help="steps of extensions with images of all")
    parser.add_argument("--anew", type=int, nargs="+", default=[1000], help="steps of trainings of all, anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/extension"))
    args = parser.parse_args()
    bench = Bench(args)
    results = args.out / f"seed{args.seed}"
    anew = {n: kept(results / f"anew-{n}.json", lambda n=n: with_images(bench, n, None)) for n in args.anew}
    found, curves = {}, {}
    for new in args.new or bench.products:
        old = results / f"without-{new}-{args.steps}.ckpt"
        former = kept(old.with_suffix(".json"), lambda new=new, old=old: without(bench, new, old))
        name = f"{new}-{args.steps}-{args.more}.json"
        own = kept(results / name, lambda new=new, old=old: with_features(bench, new, old))
        found[new] = own | {"before": former["before"], "seconds": [former["seconds"], own["seconds"]]}
        curves[new] = {
            n: kept(results / f"{new}-all-{n}.json", lambda n=n, old=old: with_images(bench, n, old))
            for n in args.curve
        }
    print(f"\n{table_of_accuracy(found, anew[args.anew[0]]['after'])}\n\n{table_of_verdicts(found)}\n")
    if args.curve:
        print(f"{table_of_steps(curves, anew)}\n")
    seconds = np.mean([own["seconds"] for own in found.values()], axis=0)
    print(f"CPU s: {seconds[0]:.0f} an old model, {seconds[1]:.0f} its extension; {machine()}")


if __name__ == "__main__":
    main()
