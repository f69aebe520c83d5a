# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How training and inference grow: with the number of training images and of categories, image size and batch size.

python tests/benchmarks/growth.py            # four curves
python tests/benchmarks/growth.py --full     # one training on 20,000 images, features cached on disk

Every point is a training on generated images in a process of its own, which gives its CPU time and peak memory. Then
the model judges images one by one. Weights are random, which cost the same.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from measure import machine, markdown, peak_memory_mb
from PIL import Image

SIDE = 256  # of the generated photographs, in pixels
PICTURES = 8  # different ones of a category; further files are links to them
HEADS = ["curve", "images", "categories", "px", "batch", "CPU s", "CPU ms an image and epoch", "peak MB", "cache MB",
         "inference CPU ms"]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What a point is measured at."""

    images: int = 128  # for training, over all categories
    categories: int = 4
    image_size: int = 224
    batch_size: int = 16
    backbone: str = "mobilenetv2_100"
    fusion: str = "small"
    blocks: int = 11  # of the fusion: fewer of them make --full quicker, and leave what grows with the images as it is
    epochs: int = 2
    cache: str = "auto"
    cache_dtype: str = "float32"


@dataclass(frozen=True)
class Cost:
    """What is measured at a point."""

    train_seconds: float  # of CPU time, as all times
    train_milliseconds: float  # for an image and epoch
    peak_mb: float
    cache_mb: float  # on disk
    inference_milliseconds: float


CURVES = {
    "images": [64, 128, 256, 512],
    "categories": [1, 4, 16, 64],
    "image_size": [128, 192, 256, 320],
    "batch_size": [1, 4, 16, 64],
}
QUICK = {"images": [4, 8], "categories": [1, 2]}


def write_images(root: Path, setting: Setting) -> None:
    """Write noisy photographs of every category in MVTec AD's layout."""
    random = np.random.default_rng(0)
    per_category = np.diff(np.linspace(0, setting.images, setting.categories + 1).round().astype(int))
    for category, count in enumerate(per_category.tolist()):
        base = random.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        for split, number in (("train/good", count), ("test/good", 1), ("test/spot", 1)):
            folder = root / f"product_{category:03d}" / split
            folder.mkdir(parents=True)
            for index in range(number):
                file = folder / f"{index:05d}.png"
                if index < PICTURES:
                    picture = np.roll(base, index, axis=1).repeat(8, 0).repeat(8, 1)
                    Image.fromarray(picture).save(file, compress_level=1)
                else:
                    file.hardlink_to(folder / f"{index % PICTURES:05d}.png")


def measure(setting: Setting, folder: Path) -> Cost:
    """Train on generated images in this process, then judge some."""
    import torch  # noqa: PLC0415  # heavy imports in the measured process only
    from anomalib.engine import Engine  # noqa: PLC0415

    from anomalib_grad import Grad, MultiCategory  # noqa: PLC0415

    write_images(folder / "data", setting)
    torch.manual_seed(0)
    size = (setting.image_size, setting.image_size)
    model = Grad(
        setting.backbone, pre_trained=False, image_size=size, fusion=setting.fusion,
        method={"num_blocks": setting.blocks}, training={"precision": "trainer"},
        feature_cache=setting.cache, cache={"dtype": setting.cache_dtype, "folder": folder / "cache"},
        evaluator=False, visualizer=False,
    )  # fmt: skip
    data = MultiCategory(root=folder / "data", train_batch_size=setting.batch_size, num_workers=0)
    engine = Engine(
        max_epochs=setting.epochs,
        check_val_every_n_epoch=setting.epochs + 1,
        default_root_dir=folder / "results",
        logger=False,
    )
    start = time.process_time()
    engine.fit(model, datamodule=data)
    seconds = time.process_time() - start
    model.eval()
    times = []
    with torch.inference_mode():
        for _ in range(12):
            start = time.process_time()
            model(torch.rand(1, 3, SIDE, SIDE))
            times.append(time.process_time() - start)
    return Cost(
        train_seconds=seconds,
        train_milliseconds=1000 * seconds / setting.images / setting.epochs,
        peak_mb=peak_memory_mb(),
        cache_mb=sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file()) / 1e6,
        inference_milliseconds=1000 * float(np.median(times[2:])),
    )


def measure_apart(setting: Setting) -> Cost:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--point", json.dumps(asdict(setting))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def line(curve: str, setting: Setting, cost: Cost) -> list[str]:
    """Render one point."""
    where = [setting.images, setting.categories, setting.image_size, setting.batch_size]
    return [curve, *map(str, where), f"{cost.train_seconds:.1f}", f"{cost.train_milliseconds:.0f}",
            f"{cost.peak_mb:.0f}", f"{cost.cache_mb:.2f}", f"{cost.inference_milliseconds:.1f}"]  # fmt: skip


def plot(curves: dict[str, list[tuple[Setting, Cost]]], path: Path) -> None:
    """Plot times for an image above peak memory, a column for each curve."""
    figure = Figure(figsize=(3.2 * len(curves), 5), layout="constrained")
    panels = figure.subplots(2, len(curves), squeeze=False, sharey="row")
    for (name, points), (times, memory) in zip(curves.items(), panels.T, strict=True):
        x = [getattr(setting, name) for setting, _ in points]
        times.plot(x, [cost.train_milliseconds for _, cost in points], "o-", label="training, an image and epoch")
        times.plot(x, [cost.inference_milliseconds for _, cost in points], "s-", label="inference")
        memory.plot(x, [cost.peak_mb for _, cost in points], "o-")
        for axes in (times, memory):
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [str(value) for value in x])
            axes.set_ylim(bottom=0)
        memory.set_xlabel(name.replace("_", " "))
    panels[0, 0].set_ylabel("CPU ms")
    panels[0, 0].legend()
    panels[1, 0].set_ylabel("peak MB of training")
    figure.savefig(path, dpi=150)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Setting):
        kind = {int: int, str: str}[field.type]  # type: ignore[index]
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--curves", nargs="+", default=list(CURVES), choices=list(CURVES))
    parser.add_argument("--full", action="store_true", help="one point only: 20,000 images, features on disk")
    parser.add_argument("--quick", action="store_true", help="two short curves, to try the script")
    parser.add_argument("--out", type=Path, default=Path("results/growth"), help="folder for the table and the plot")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure point after point, then print the table."""
    args = arguments()
    if args.point:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asdict(measure(Setting(**args.point), Path(folder)))))
        return
    common = Setting(**{field.name: getattr(args, field.name) for field in fields(Setting)})
    args.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[tuple[Setting, Cost]]] = {}
    if args.full:
        full = replace(common, images=20_000, cache="disk")
        curves["full"] = [(full, measure_apart(full))]
    else:
        for name, values in (QUICK if args.quick else {name: CURVES[name] for name in args.curves}).items():
            settings = [replace(common, **{name: value}) for value in values]
            curves[name] = [(setting, measure_apart(setting)) for setting in settings]
        plot(curves, args.out / "growth.png")
    table = markdown(HEADS, [line(name, *point) for name, points in curves.items() for point in points])
    note = f"{common.backbone}, {common.fusion} fusion of {common.blocks} blocks, {common.epochs} epochs; {machine()}"
    (args.out / ("full.md" if args.full else "growth.md")).write_text(f"{table}\n\n{note}\n")
    print(f"\n{table}\n\n{note}")


if __name__ == "__main__":
    main()
