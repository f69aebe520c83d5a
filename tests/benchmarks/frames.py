# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What frames of a camera's size cost, beside Pillow's resize, the bare model and PaDiM, and whether verdicts stay.

python tests/benchmarks/frames.py [--threads 1] [--tables 1 2 3] [--root ../shared/native_size] [--plot frames.png]

Grad (grad_tiny, small fusion) and PaDiM (resnet18) have random heads and statistics: they do not change the time. All
times are medians in milliseconds, taken in turns in one process: the CPU's with one thread, where other work on the
machine would lengthen them, those that passed with several, and in streams. onnxruntime is timed where it is installed.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib as mpl
import numpy as np
import torch
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.models import Padim
from matplotlib import pyplot as plt
from measure import MB, in_turns, machine, markdown, peak_memory_above
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize
from verdicts import METHOD, Judge, in_range, onnx_judge, real_images, table

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.feature_cache.filling import fill

SIDES = [(224, 224), (1024, 1024), (2048, 2448), (3000, 4096), (4600, 5300)]
MODEL = (224, 224)
FIVE = SIDES[2]
BATCH = 32


def picture(height: int, width: int) -> np.ndarray:
    """A picture with structure at all scales."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (smooth.astype(np.int16) + generator.integers(-10, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


def padim() -> Padim:
    """A PaDiM that was fitted to noise."""
    model = Padim(backbone="resnet18", pre_trained=False)
    with torch.no_grad():
        model.model.train()
        model.model(torch.rand(60, 3, 256, 256))
        model.model.fit()
    return model.eval()


def quick(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each in milliseconds: with one thread the CPU's, which other work does not lengthen."""
    alone = torch.get_num_threads() == 1
    timings = in_turns(runs, rounds, burst=2).items()
    return {name: 1000 * (timing.cpu if alone else timing.wall) for name, timing in timings}


def pillow(frame: np.ndarray | Path) -> np.ndarray:
    """Make a frame small with Pillow alone."""
    image = Image.open(frame).convert("RGB") if isinstance(frame, Path) else Image.fromarray(frame)
    return np.asarray(image.resize(MODEL, Image.Resampling.BILINEAR))


def write_files(shop: Path) -> dict[tuple[int, int], Path]:
    """Write a product of JPEGs of each size; gives its training image."""
    files = {}
    for side in SIDES[1:]:
        image = Image.fromarray(picture(*side))
        for part in ("test/bad/0", "test/good/0", "train/good/0"):
            files[side] = shop / megapixels(side) / f"{part}.jpg"
            files[side].parent.mkdir(parents=True, exist_ok=True)
            image.save(files[side], quality=92)
    return files


def own_inferencer(judge: Judge, files: dict[tuple[int, int], Path], rounds: int) -> list[list[object]]:
    """Table 1: our inferencer on arrays and files."""
    small, rows = picture(*MODEL), []
    for side in SIDES[1:]:
        frame = picture(*side)
        runs: dict[str, Callable[[], object]] = {"model": partial(judge, small)}
        for name, given in (("array", frame), ("JPEG", files[side])):
            runs |= {name: partial(judge, given), f"{name} by Pillow": partial(pillow, given)}
        took = quick(runs, rounds)
        ratios = [(took[name] - took["model"]) / took[f"{name} by Pillow"] for name in ("array", "JPEG")]
        ratios.append(peak_memory_above(partial(judge, frame)) * MB / frame.nbytes)
        rows.append([megapixels(side), *(f"{value:.0f}" for value in took.values()), *(f"{r:.2f}" for r in ratios)])
    return rows


def pre_processing(judges: dict[str, list[Judge]], rounds: int) -> tuple[list[list[object]], dict[str, list]]:
    """Table 2: time on a large frame less that on a small one, ours beside PaDiM's; and all times."""
    frames = {side: picture(*side) for side in SIDES}
    curves: dict[str, list[float]] = {}
    for side in SIDES:
        runs = {}
        for runtime, pair in judges.items():
            for model, judge in zip(("Grad", "PaDiM"), pair, strict=True):
                runs[f"{model}, {runtime}"] = partial(judge, frames[side])
        for name, value in quick(runs, rounds).items():
            curves.setdefault(name, []).append(value)
    rows: list[list[object]] = []
    for number, side in enumerate(SIDES[1:], start=1):
        for runtime in judges:
            ours, theirs = (curves[f"{m}, {runtime}"][number] - curves[f"{m}, {runtime}"][0] for m in ("Grad", "PaDiM"))
            rows.append([megapixels(side), runtime, f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"])
    return rows, curves


def product(file: Path) -> MultiCategory:
    """Set up the product of a file, read at the model's size."""
    data = MultiCategory(root=file.parents[3], num_workers=0, categories=[file.parents[2].name])
    data.setup()
    data.train_data.augmentations = Resize(MODEL, antialias=True)
    return data


def reading(files: dict[tuple[int, int], Path], rounds: int) -> list[list[object]]:
    """Table 3: a JPEG read through MultiCategory at the model's size, beside Pillow; memory of a batch."""
    rows: list[list[object]] = []
    for side in SIDES[1:]:
        images = product(files[side]).train_data
        path = Path(images.samples["image_path"].iloc[0])
        took = quick({"read": partial(images.__getitem__, 0), "Pillow": partial(pillow, path)}, rounds)
        peak = peak_memory_above(lambda images=images: images.collate_fn([images[0] for _ in range(BATCH)]))
        ratio = f"{took['read'] / took['Pillow']:.2f}"
        rows.append([megapixels(side), *(f"{v:.0f}" for v in took.values()), ratio, f"{peak:.0f}"])
    return rows


def filling(grad: Grad, file: Path, rounds: int, count: int = 16) -> list[list[object]]:
    """Table 5: features of 5-megapixel JPEGs for the cache, beside Pillow and the backbone on images that are ready."""
    loader = DataLoader(product(file).train_data, batch_size=count, collate_fn=product(file).train_data.collate_fn)
    parts = grad.model.backbone, grad.pre_processor.transform
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    cache, small = np.empty((1, grad.model.backbone.row_length), dtype=np.float32), torch.rand(count, 3, *MODEL)
    backbone = torch.no_grad()(grad.model.backbone.feature_maps)
    took = quick(
        {
            "cache": partial(fill, trainer, *parts, loader, cache, [0] * count),
            "Pillow": lambda: [pillow(file) for _ in range(count)],
            "backbone": partial(backbone, small),
        },
        rounds,
    )
    cells = [f"{value / count:.0f}" for value in took.values()]
    return [[*cells, f"{took['cache'] / (took['Pillow'] + took['backbone']):.2f}"]]


def streams(inferencer: CategoryOpenVINOInferencer, file: Path, count: int) -> list[list[object]]:
    """Table 6: frames a second in a loop and in streams, at 5 megapixels."""
    rows: list[list[object]] = []
    for name, given in (("array", picture(*FIVE)), ("JPEG", file)):
        start = time.perf_counter()
        for _ in range(count):
            inferencer.predict(given)
        loop = count / (time.perf_counter() - start)
        rows.append([name, "loop", f"{loop:.1f}", "1.00", f"{1000 / loop:.0f}"])
        for in_flight in (2, 4, 8):
            stream = inferencer.stream([given] * (count + in_flight), in_flight)
            next(stream)  # threads and requests are there
            start = time.perf_counter()
            latency = [result.seconds for result in stream]
            rate = len(latency) / (time.perf_counter() - start)
            row = [name, f"stream, {in_flight} in flight", f"{rate:.1f}", f"{rate / loop:.2f}"]
            rows.append([*row, f"{1000 * np.median(latency):.0f}"])
    return rows


def in_runtimes(exports: list[dict[str, Path]], config: dict[str, Any], threads: int) -> dict[str, list[Judge]]:
    """Run exports in anomalib's inferencers and, where it is installed, on plain onnxruntime."""
    judges: dict[str, list[Judge]] = {
        "OpenVINO": [OpenVINOInferencer(export["openvino"], "CPU", config).predict for export in exports],
        "torch": [TorchInferencer(export["torch"], device="cpu").predict for export in exports],
    }
    on_onnx = [judge for export in exports if (judge := onnx_judge(export["onnx"], threads))]
    return judges | ({"onnxruntime": on_onnx} if on_onnx else {})


def megapixels(side: tuple[int, int]) -> str:
    """Size in megapixels."""
    return f"{side[0] * side[1] / 1e6:.1f}"


def draw(curves: dict[str, list[float]], path: Path) -> None:
    """Draw times against megapixels."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, values in curves.items():
        axes.plot([h * w / 1e6 for h, w in SIDES], values, marker="o", label=name)
    axes.set(xlabel="megapixels", ylabel="milliseconds a frame", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], help="which of them")
    parser.add_argument("--root", type=Path, help="folder of real images whose verdicts are compared")
    parser.add_argument("--plot", type=Path, default=Path("frames.png"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["TRUST_REMOTE_CODE"] = "1"  # files of this very run
    config = {"INFERENCE_NUM_THREADS": args.threads, "EXECUTION_MODE_HINT": "ACCURACY"}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), Path.cwd()
        paths = real_images(args.root) if args.root else []
        plot = args.plot.resolve()
        os.chdir(folder)  # anomalib's cache of compiled models
        grad = Grad(backbone="grad_tiny", fusion="small", image_size=MODEL, method=METHOD, visualizer=False).eval()
        in_range(grad, [picture(300 + 20 * n, 300) for n in range(4)])
        exports = {
            model_name: {
                "openvino": model.to_openvino(folder / model_name),
                "onnx": model.to_onnx(folder / model_name),
                "torch": model.to_torch(folder / model_name),
            }
            for model_name, model in (("Grad", grad), ("PaDiM", padim()))
        }
        files = write_files(folder / "shop")
        ours = CategoryOpenVINOInferencer(exports["Grad"]["openvino"], "CPU", config)
        judges = in_runtimes(list(exports.values()), config, args.threads)
        print(f"{machine()}, {args.threads} threads\n")
        if 1 in args.tables:
            print("1. CategoryOpenVINOInferencer; ratio: (time - model) / Pillow\n")
            heads = ["megapixels", "model", "array", "Pillow", "JPEG", "Pillow, decoding", "ratio array", "ratio JPEG"]
            heads.append("peak memory / frame")
            print(markdown(heads, own_inferencer(ours.predict, files, args.rounds)))
        if 2 in args.tables:
            rows, curves = pre_processing(judges, args.rounds)
            print("\n2. anomalib's inferencers: time on a large frame less that on a small one\n")
            print(markdown(["megapixels", "runtime", "Grad", "PaDiM", "ratio"], rows))
            own = quick({f"{side}": partial(ours.predict, picture(*side)) for side in SIDES}, args.rounds)
            draw({"Grad, CategoryOpenVINOInferencer": list(own.values()), **curves}, plot)
            print(f"\n{plot}")
        if 3 in args.tables:
            print("\n3. A training image read through MultiCategory\n")
            heads = ["megapixels", "MultiCategory", "Pillow, decoding", "ratio", f"peak MB, batch of {BATCH}"]
            print(markdown(heads, reading(files, args.rounds)))
        if 4 in args.tables and paths:
            print("\n4. Differences from the model in process on the whole file\n")
            print(table(paths[:: max(1, len(paths) // 8)][:8], folder, args.threads))
        if 5 in args.tables:
            print("\n5. The feature cache filled from 5 megapixels, ms an image\n")
            print(markdown(["cache", "Pillow, decoding", "backbone", "ratio"], filling(grad, files[FIVE], args.rounds)))
        if 6 in args.tables:
            print("\n6. Streams of 5 megapixels\n")
            print(markdown(["frame", "how", "frames/s", "ratio", "latency ms"], streams(ours, files[FIVE], 30)))
        os.chdir(before)


if __name__ == "__main__":
    main()
