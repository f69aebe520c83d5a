# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Compare Grad with anomalib's models on many categories: accuracy, training time, latency, size, in one table.

python examples/compare.py --root ../shared/data --weights ../shared/weights/mobilenetv2_100.safetensors

Every model that can take the backbone gets the same one, from the same local file. Rows are stored as they finish;
the same command goes on where it stopped.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import timm
import torch
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, Dinomaly, Padim, Patchcore, ReverseDistillation
from lightning import seed_everything

from anomalib_grad import Grad, MultiCategory

SIZE = (224, 224)
LAYERS = ["blocks.2", "blocks.4"]
BACKBONE = "mobilenetv2_100"
BATCH_SIZE = 16
METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO", "image_F1Max")


class Contestant(NamedTuple):
    """A row of the table."""

    build: Callable[[argparse.Namespace], AnomalibModule]
    steps: Callable[[argparse.Namespace], int]  # of training; a memory bank needs one epoch, whatever this says
    random_encoder: bool = False  # its pretrained encoder is out of reach: latency and size only
    precision: str = "32-true"  # of training


def local_backbone(model: AnomalibModule, weights: Path) -> AnomalibModule:
    """Read the backbone of an anomalib model that uses timm features from a local file."""
    extractor: Any = model.model.feature_extractor
    pretrained = timm.create_model(
        BACKBONE,
        features_only=True,
        out_indices=extractor.idx,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(weights)},
    )
    extractor.feature_extractor.load_state_dict(pretrained.state_dict())
    return model


def plain(
    model: type[AnomalibModule],
    crop: dict[str, int] | None = None,
    size: tuple[int, int] = SIZE,
    **arguments: Any,  # noqa: ANN401
) -> AnomalibModule:
    """Build an anomalib model at the common input size, without pictures and pooled metrics."""
    pre_processor = model.configure_pre_processor(image_size=size, **(crop or {}))
    return model(pre_processor=pre_processor, evaluator=False, visualizer=False, **arguments)


def build_grad(args: argparse.Namespace) -> AnomalibModule:
    """Grad with the common backbone, by the recipe ``fast``."""
    return Grad("fast", BACKBONE, LAYERS, args.weights, SIZE, evaluator=False, visualizer=False)


def build_padim(args: argparse.Namespace) -> AnomalibModule:
    """PaDiM with the common backbone, all channels that its covariance allows at this size."""
    model = plain(Padim, backbone=BACKBONE, layers=LAYERS, pre_trained=False, n_features=100)
    return local_backbone(model, args.weights)


def build_patchcore(args: argparse.Namespace) -> AnomalibModule:
    """PatchCore with the common backbone and one patch in a hundred."""
    model = plain(Patchcore, backbone=BACKBONE, layers=LAYERS, pre_trained=False, coreset_sampling_ratio=0.01)
    return local_backbone(model, args.weights)


CONTESTANTS = {
    "Grad (small)": Contestant(build_grad, lambda args: args.steps, precision="bf16-mixed"),
    "PaDiM": Contestant(build_padim, lambda _: 1),
    "PatchCore (1 %)": Contestant(build_patchcore, lambda _: 1),
    "Reverse Distillation (resnet18)": Contestant(
        lambda _: plain(ReverseDistillation, backbone="resnet18", pre_trained=False), lambda _: 1, random_encoder=True
    ),
    "Dinomaly (ViT-S)": Contestant(
        lambda _: plain(Dinomaly, {"crop_size": SIZE[0]}, encoder_name="vit_small_patch14_reg4_dinov2"), lambda _: 1
    ),
}


def measure_latency(model: AnomalibModule) -> tuple[float, float]:
    """Export to OpenVINO; give the median latency of one 224 x 224 image in ms and the exported size in MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = model.to_openvino(folder)
        size = sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6
        compiled = ov.Core().compile_model(path, "CPU")
        batch = compiled.input(0).partial_shape[0]
        images = batch.get_length() if batch.is_static else 1  # anomalib's PatchCore exports for two images only
        image = np.random.default_rng(0).random((images, 3, *SIZE), dtype=np.float32)
        times = []
        for _ in range(30):
            start = time.perf_counter()
            compiled(image)
            times.append((time.perf_counter() - start) / images)
    return 1000 * float(np.median(times[5:])), size


def run(contestant: Contestant, args: argparse.Namespace, categories: list[str] | str, run_name: str) -> dict[str, Any]:
    """Train and test one model on categories; gives its row. Checkpoint and report stay in ``out/run_name``."""
    seed_everything(args.seed, verbose=False)
    data = MultiCategory(
        root=args.root,
        categories=categories,
        train_batch_size=BATCH_SIZE,
        eval_batch_size=BATCH_SIZE,
        num_workers=args.num_workers,
    )
    data.setup()
    steps_per_epoch = math.ceil(len(data.train_data) / BATCH_SIZE)
    epochs = math.ceil(contestant.steps(args) / steps_per_epoch)
    model = contestant.build(args)
    engine = Engine(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        precision=contestant.precision,
        default_root_dir=args.out / run_name,
    )
    start = time.process_time()
    engine.fit(model, datamodule=data)
    seconds = time.process_time() - start  # CPU seconds: comparable on a machine that others use too
    (results,) = Engine(default_root_dir=args.out / run_name).test(model, datamodule=data)  # in full precision
    latency, size = measure_latency(model.eval().cpu())
    metrics = {name: value for name, value in results.items() if name.rpartition("/")[2] in METRICS}
    return {**metrics, "train_s": seconds, "latency_ms": latency, "size_MB": size}


def stored(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a finished row, or make and store it."""
    if not path.exists():
        row = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(row, indent=2))
        temporary.replace(path)
    return json.loads(path.read_text())


def separate_models(args: argparse.Namespace, categories: list[str]) -> dict[str, Any]:
    """One Grad for each category instead of one for all; gives the row of their means."""
    alone = CONTESTANTS["Grad (small)"]._replace(steps=lambda args: args.separate_steps)
    parts = [
        stored(
            args.out / f"separate_{name}.json",
            lambda name=name: run(alone, args, [name], f"separate_{name}"),
        )
        for name in categories
    ]
    row = {key: value for part in parts for key, value in part.items() if not key.startswith("mean/")}
    row |= {f"mean/{metric}": float(np.nanmean([part[f"mean/{metric}"] for part in parts])) for metric in METRICS}
    row["train_s"] = sum(part["train_s"] for part in parts)
    row["size_MB"] = sum(part["size_MB"] for part in parts)
    return row


def markdown(rows: dict[str, dict[str, Any]], categories: list[str]) -> str:
    """Render the table: percent for metrics, one row a model."""
    heads = ["model", *categories, "mean image AUROC", "pixel AUROC", "AUPRO", "train CPU s", "latency ms", "size MB"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        cells = [name]
        if "error" in row:
            cells += [row["error"]] + [""] * (len(heads) - 2)
        else:
            cells += [f"{100 * row[f'{category}/image_AUROC']:.1f}" for category in categories]
            cells += [f"{100 * row[f'mean/{metric}']:.1f}" for metric in METRICS[:3]]
            cells += [f"{row['train_s']:.0f}", f"{row['latency_ms']:.1f}", f"{row['size_MB']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and is not yet stored, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one MVTec-AD-style folder per product")
    parser.add_argument("--weights", type=Path, required=True, help="local weight file of timm's mobilenetv2_100")
    parser.add_argument("--only", nargs="+", choices=[*CONTESTANTS, "separate"], help="rows to run; default: all")
    parser.add_argument("--steps", type=int, default=300, help="training steps of one Grad for all categories")
    parser.add_argument("--separate-steps", type=int, default=200, help="training steps of a Grad for one category")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--out", type=Path, default=Path("results/compare"), help="where finished rows are stored")
    args = parser.parse_args()
    categories = MultiCategory(root=args.root).categories
    wanted = args.only or [*CONTESTANTS, "separate"]
    rows: dict[str, dict[str, Any]] = {}
    for name, contestant in CONTESTANTS.items():
        if name in wanted:
            label = f"{name}, random encoder" if contestant.random_encoder else name
            run_name = name.partition(" (")[0].replace(" ", "_").lower()
            try:
                rows[label] = stored(
                    args.out / f"{run_name}.json",
                    lambda contestant=contestant, run_name=run_name: run(contestant, args, "all", run_name),
                )
            except OSError as error:  # pretrained weights out of reach
                rows[label] = {"error": f"did not run: {str(error).splitlines()[0]}"}
    if "separate" in wanted:
        rows["Grad (small), a model per category"] = separate_models(args, categories)
    table = markdown(rows, categories)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(table + "\n")
    print(f"\n{table}\n\ntorch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
