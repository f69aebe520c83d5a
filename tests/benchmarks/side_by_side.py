# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Grad beside anomalib's models: latency and throughput in OpenVINO, size, training time, accuracy; table and plot.

python tests/benchmarks/side_by_side.py --root DATA --category bottle --weights mobilenetv2_100.safetensors

All models train on the same images and are then timed in turns, in one process. Models that can take the backbone of
the weights file do; only they are trained in full and have an accuracy. The others have random encoders, which changes
neither latency nor the time of a training step; where their data cannot be fetched, the row says so. Without --root,
the images are generated; without --weights, all encoders are random. Trained models stay in --out: the same command
goes on where it stopped, and times all of them anew.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import timm
from anomalib.engine import Engine
from anomalib.models import (
    AnomalibModule,
    Dinomaly,
    EfficientAd,
    Padim,
    Patchcore,
    ReverseDistillation,
    Supersimplenet,
)
from anomalib.pre_processing import PreProcessor
from lightning import seed_everything
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from measure import compile_model, images, in_turns, machine, markdown, size_mb

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.components.representation import FUSIONS
from anomalib_grad.data import Textures
from anomalib_grad.recipes import find_recipe

sys.path.append(str(Path(__file__).parents[2] / "examples/compare"))
from contestants import resized
from local_weights import local_weights
from storing import load_or_compute

SIZE = (224, 224)
BACKBONE, LAYERS = "mobilenetv2_100", ["blocks.2", "blocks.4"]

HEADS = ["model", "encoder", "image AUROC", "px", "ms", "images/s", "MB", "training: epochs", "CPU s an epoch", "CPU s"]


class Contestant(NamedTuple):
    """A row of the table."""

    build: Callable[[Path | None], AnomalibModule]  # from the weights file, None for random weights
    encoder: str  # what it is if it is not the common one
    epochs: int | None = None  # None for the --epochs of the command line
    batch_size: int = 16


class Row(NamedTuple):
    """What became of a contestant: its figures, or why there are none."""

    encoder: str
    side: int  # of the square images it takes, in pixels
    auroc: float | None = None
    epochs: float = 0
    train_seconds: float | None = None  # of CPU time
    model: str | None = None  # path of the export
    problem: str = ""


class TrainingClock(pl.Callback):
    """CPU seconds from the first training batch to the first validation batch: memory banks are filled in between."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def on_train_start(self, *_: Any) -> None:
        self._start, self.seconds = time.process_time(), 0.0

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking and not self.seconds:
            self.seconds = time.process_time() - self._start


def grad(fusion: str) -> Callable[[Path | None], AnomalibModule]:
    """Grad with a fusion on the common backbone."""
    return lambda weights: Grad(
        backbone=BACKBONE, pre_trained=weights or False, fusion=fusion, evaluator=False, visualizer=False
    )


def grad_plus(weights: Path | None) -> AnomalibModule:
    """Grad with the most accurate recipe on the common backbone."""
    return Grad("plus", BACKBONE, pre_trained=weights or False, evaluator=False, visualizer=False)


def plain(model: type[AnomalibModule], side: int = SIZE[0], **arguments: Any) -> AnomalibModule:
    """Build a model of anomalib for square images, without crop, pictures and pooled metrics."""
    built: Any = model(evaluator=False, visualizer=False, **arguments)
    built.pre_processor = PreProcessor(resized(built.pre_processor.transform, side))
    return built


def on_timm_features(model: type[AnomalibModule], **arguments: Any) -> Callable[[Path | None], AnomalibModule]:
    """A model of anomalib that takes the common backbone."""

    def build(weights: Path | None) -> AnomalibModule:
        with local_weights({BACKBONE: weights} if weights else {}, random_encoders=True):
            return plain(model, backbone=BACKBONE, layers=LAYERS, **arguments)

    return build


def random_resnet(_: Path | None) -> AnomalibModule:
    """SuperSimpleNet on its own network; it takes a network in the place of the name whose weights it would fetch."""
    return plain(Supersimplenet, backbone=timm.create_model("wide_resnet50_2", pretrained=False))


def random_dinomaly(_: Path | None) -> AnomalibModule:
    """Dinomaly with a random encoder; it has no argument for that."""
    with local_weights({}, random_encoders=True):
        return plain(Dinomaly, encoder_name="vit_small_patch14_reg4_dinov2")


CONTESTANTS = {
    **{f"Grad ({fusion})": Contestant(grad(fusion), "") for fusion in FUSIONS},
    "Grad (plus)": Contestant(grad_plus, ""),
    "PaDiM": Contestant(on_timm_features(Padim, n_features=100), "", epochs=1),
    "PatchCore (1 %)": Contestant(on_timm_features(Patchcore, coreset_sampling_ratio=0.01), "", epochs=1),
    "Reverse Distillation": Contestant(
        lambda _: plain(ReverseDistillation, pre_trained=False), "wide_resnet50_2, random", epochs=1
    ),
    "EfficientAD (S)": Contestant(
        lambda _: plain(EfficientAd, 256),  # its autoencoder takes no smaller images
        "random",
        epochs=1,
        batch_size=1,
    ),
    "SuperSimpleNet": Contestant(random_resnet, "wide_resnet50_2, random", epochs=1),
    "Dinomaly (ViT-S)": Contestant(random_dinomaly, "vit_small_patch14_reg4, random", epochs=1),
}
"""Those with an encoder of their own train for an epoch, to be timed."""


def data_for(contestant: Contestant, args: argparse.Namespace) -> MultiCategory:
    """The images, in the contestant's batches."""
    batches = {"train_batch_size": contestant.batch_size, "eval_batch_size": 16, "num_workers": 0}
    if args.root:
        return MultiCategory(root=args.root, categories=args.category, **batches)
    return Textures(root=args.out / "textures", n_train=args.images, n_test_good=4, n_defect=1, **batches)


def stored_row(name: str, args: argparse.Namespace) -> Row:
    """Read what the same settings left of a contestant, or train it."""
    settings = {key: str(getattr(args, key)) for key in ("root", "category", "weights", "epochs", "steps", "images")}
    if CONTESTANTS[name].build is grad_plus:
        settings["recipe"] = repr(find_recipe("plus"))
    path = args.out / name / "row.json"
    if path.exists() and json.loads(path.read_text())["settings"] != settings:
        path.unlink()
    kept = load_or_compute(path, lambda: {"settings": settings, "row": train_and_export(name, args)._asdict()})
    return Row(**kept["row"])


def train_and_export(name: str, args: argparse.Namespace) -> Row:
    """Train a contestant, test it if its encoder is a real one, export it."""
    contestant = CONTESTANTS[name]
    common = f"{BACKBONE}, {'random' if args.weights is None else 'pretrained'}"
    seed_everything(0, verbose=False)
    model = contestant.build(args.weights)
    row = Row(contestant.encoder or common, model.input_size[0])
    data = data_for(contestant, args)
    epochs = contestant.epochs or args.epochs
    clock = TrainingClock()
    limit = args.steps if contestant.encoder else None
    engine = Engine(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        limit_train_batches=limit,
        default_root_dir=args.out / name,
        callbacks=[clock],
        logger=False,
    )
    try:
        engine.fit(model, datamodule=data)
    except OSError as error:
        row = row._replace(problem=f"not trained: its data cannot be fetched ({type(error).__name__})")
    else:
        batches = -(-len(data.train_data) // contestant.batch_size)
        share = min(1.0, limit / batches) if limit else 1.0
        row = row._replace(epochs=epochs * share, train_seconds=clock.seconds)
        if not contestant.encoder and args.weights:
            (results,) = engine.test(model, datamodule=data)
            row = row._replace(auroc=results["mean/image_AUROC"])
    return row._replace(model=str(model.eval().cpu().to_openvino(args.out / name)))


def time_models(rows: dict[str, Row], args: argparse.Namespace) -> dict[str, list[str]]:
    """Time all exports in turns; gives milliseconds of one image and images per second of a full batch."""
    runs: dict[str, dict[int, tuple[int, Callable[[], object]]]] = {}
    for name, row in rows.items():
        if row.model is not None:
            compiled = compile_model(Path(row.model), args.hint, args.threads)
            fixed = compiled.input(0).partial_shape[0]  # PatchCore's export takes no other number of images
            sizes = {wanted: fixed.get_length() if fixed.is_static else wanted for wanted in (1, args.batch)}
            batches = {wanted: images(size, row.side) for wanted, size in sizes.items()}
            runs[name] = {
                wanted: (len(batch), lambda compiled=compiled, batch=batch: compiled(batch))
                for wanted, batch in batches.items()
            }
    cells: dict[str, list[str]] = {name: [] for name in runs}
    for wanted, rounds in ((1, args.rounds), (args.batch, max(1, args.rounds // 8))):
        timings = in_turns({name: own[wanted][1] for name, own in runs.items()}, rounds)
        for name, timing in timings.items():
            per_image = timing.wall / runs[name][wanted][0]
            cells[name].append(f"{1000 * per_image:.1f}" if wanted == 1 else f"{1 / per_image:.0f}")
    return cells


def table(rows: dict[str, Row], timings: dict[str, list[str]]) -> str:
    """Render the figures."""
    lines = []
    for name, row in rows.items():
        auroc = "" if row.auroc is None else f"{100 * row.auroc:.1f}"
        measured = [*timings[name], f"{size_mb(Path(row.model)):.1f}"] if row.model else ["", "", ""]
        if row.train_seconds is None:
            training = [row.problem, "", ""]
        else:
            training = [f"{row.epochs:.2g}", f"{row.train_seconds / row.epochs:.1f}", f"{row.train_seconds:.1f}"]
        lines.append([name, row.encoder, auroc, str(row.side), *measured, *training])
    return markdown(HEADS, lines)


def plot(rows: dict[str, Row], timings: dict[str, list[str]], path: Path) -> None:
    """Plot accuracy against latency; models without an accuracy stand in a strip below."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[4, 1])
    for name, (latency, _) in timings.items():
        auroc = rows[name].auroc
        axes, height = (below, 0.0) if auroc is None else (above, 100 * auroc)
        axes.scatter(float(latency), height, color="tab:orange" if name.startswith("Grad") else "tab:blue")
        axes.annotate(
            name, (float(latency), height), textcoords="offset points", xytext=(4, 4), rotation=20, fontsize=8
        )
    above.set_ylabel("image AUROC, percent")
    above.margins(y=0.2)
    below.set_ylim(-1, 3)
    below.set_yticks([])
    below.set_ylabel("random\nencoder")
    below.set_xlabel("latency of one image in OpenVINO, ms")
    below.set_xscale("log")
    milliseconds = [float(latency) for latency, _ in timings.values()]
    below.set_xlim(min(milliseconds) / 1.2, 1.8 * max(milliseconds))  # room for the last name
    below.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    below.xaxis.set_major_formatter(ScalarFormatter())
    below.xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=120)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="images in MVTec AD's layout; generated without")
    parser.add_argument("--category", nargs="+", default="all", help="product folders below root")
    parser.add_argument("--weights", type=Path, help=f"local weight file of timm's {BACKBONE}; random without")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--epochs", type=int, default=15, help="of Grad")
    parser.add_argument("--steps", type=int, default=4, help="training steps of models with random encoders")
    parser.add_argument("--images", type=int, default=40, help="generated training images of a category")
    parser.add_argument("--hint", default="bf16", help="OpenVINO's inference precision")
    parser.add_argument("--threads", type=int, default=0, help="of OpenVINO, 0 for all")
    parser.add_argument("--batch", type=int, default=16, help="batch size for the throughput")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="an epoch, a step and few rounds, to try the script")
    parser.add_argument("--out", type=Path, default=Path("results/side_by_side"))
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.steps, args.images, args.rounds, args.batch = 1, 1, 4, 1, 2
    return args


def main() -> None:
    """Train, export, measure, print."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {name: stored_row(name, args) for name in args.only}
    timings = time_models(rows, args)
    data = ", ".join(args.category) if args.root and args.category != "all" else args.root or "generated textures"
    report = f"{table(rows, timings)}\n\n{data}; {args.hint}; images/s in batches of {args.batch}; {machine()}"
    plot(rows, timings, args.out / "side_by_side.png")
    (args.out / "side_by_side.md").write_text(report + "\n")
    print(f"\n{report}")


if __name__ == "__main__":
    main()
