# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What inference costs in torch and OpenVINO, and how much of it the backbone alone would cost in the same runtime.

python tests/benchmarks/inference.py [--backbone mobilenetv2_100 --weights FILE] [--root DATA --category NAME]

The floor is the backbone, cut after its last used stage, with the same pre-processing. At batch 1 all models are timed
in turns, so that ratios hold on a machine that others use too; CPU time with one thread is hardly disturbed at all.
Throughput is in images per second of one core. Weights are random unless given: they do not change the time. INT8
needs images to calibrate on.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from anomalib.deploy import CompressionType
from measure import SIZE, compile_model, images, in_turns, machine, markdown, peak_memory_mb, size_mb
from torch import Tensor

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.components.representation import FUSIONS

FLOOR = "backbone alone"
COMPRESSIONS = {"FP32": None, "FP16": CompressionType.FP16, "INT8": CompressionType.INT8_PTQ}


class BackboneAlone(Grad):
    """Grad without its head: what no model on these features can undercut."""

    def forward(self, batch: Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:
        """Give the used feature maps, under two of the names that anomalib exports."""
        del args, kwargs
        finest, *others = self.model.backbone(self.pre_processor(batch))
        return InferenceBatch(anomaly_map=finest, pred_mask=torch.cat([o.flatten(1) for o in others], dim=1))


class Candidate(NamedTuple):
    """A row of the table."""

    runtime: str
    model: str
    run: Callable[[Any], object]  # on a NumPy batch
    megabytes: float
    memory: Callable[[], str]  # peak of a process of its own, in MB
    release: Callable[[], object] = lambda: None  # gives the memory of a large batch back


def build(name: str, args: argparse.Namespace) -> Grad:
    """Build Grad with a fusion, or the backbone alone."""
    torch.manual_seed(0)
    kind, fusion = (BackboneAlone, "small") if name == FLOOR else (Grad, name)
    model = kind(
        backbone=args.backbone, pre_trained=args.weights or False, image_size=SIZE, fusion=fusion, visualizer=False
    )
    if name == FLOOR:
        model.model.backbone.join = list  # the maps at their own sizes
    fit_statistics(model)
    return model.eval()


def fit_statistics(model: Grad) -> None:
    """Set thresholds and ranges, as validation does, so that the exported graph is that of a trained model."""
    post_processor: Any = model.post_processor
    for level in ("image", "pixel"):
        for statistic, value in ((f"_{level}_threshold", 0.5), (f"{level}_min", 0.1), (f"{level}_max", 0.9)):
            getattr(post_processor, statistic).fill_(value)


def printed_by(*command: object) -> str:
    """Run a Python script in a process of its own; gives the last line that it printed."""
    done = subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]


def openvino_candidate(name: str, label: str, path: Path, hint: str, threads: int) -> Candidate:
    """Compile an exported model for one of OpenVINO's inference precisions."""
    compiled = compile_model(path, hint, threads)

    def memory() -> str:
        return f"{float(printed_by(Path(__file__).with_name('measure.py'), path, '--hint', hint)):.0f}"

    return Candidate(f"OpenVINO {label}, {hint}", name, compiled, size_mb(path), memory, compiled.release_memory)


def openvino_candidates(name: str, model: Grad, folder: Path, args: argparse.Namespace) -> list[Candidate]:
    """Export a model with each compression; a candidate for each of them and of OpenVINO's inference precisions."""
    data = MultiCategory(root=args.root, categories=args.category, num_workers=0) if args.root else None
    candidates = []
    for label in [label for label in args.runtimes if label in COMPRESSIONS]:
        compression = COMPRESSIONS[label]
        path = model.to_openvino(folder / name / label, compression_type=compression, datamodule=data)
        candidates += [openvino_candidate(name, label, path, hint, args.threads) for hint in args.hints]
    return candidates


def torch_candidate(name: str, model: Grad, device: str, args: argparse.Namespace) -> Candidate:
    """Run a model in torch; its images start on the CPU and its scores end there."""
    model = model.to(device)

    @torch.inference_mode()
    def run(batch: Any) -> object:
        return [value.cpu() for value in model(torch.from_numpy(batch).to(device)) if value is not None]

    def memory() -> str:
        arguments = ["--backbone", args.backbone, "--memory-of", name, "--device", device]
        weights = ["--weights", args.weights] if args.weights else []
        return f"{float(printed_by(__file__, *arguments, *weights)):.0f}"

    parts = model.model.backbone if name == FLOOR else model.model
    weights_mb = sum(tensor.nbytes for tensor in parts.state_dict().values()) / 1e6
    return Candidate(f"torch {device}", name, run, weights_mb, memory)


def candidates_for(args: argparse.Namespace, folder: Path) -> list[Candidate]:
    """All rows, those of a runtime together and the floor first."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])] if "torch" in args.runtimes else []
    candidates = []
    for name in (FLOOR, *args.fusions):
        candidates += openvino_candidates(name, build(name, args), folder, args)
        candidates += [torch_candidate(name, build(name, args), device, args) for device in devices]
    runtimes = list(dict.fromkeys(candidate.runtime for candidate in candidates))
    return sorted(candidates, key=lambda candidate: runtimes.index(candidate.runtime))


def measure(candidates: list[Candidate], args: argparse.Namespace) -> list[list[str]]:
    """Time all candidates; gives the table's rows."""
    key = "{0.runtime}: {0.model}".format
    batch = images(1)
    latency = in_turns({key(c): lambda run=c.run: run(batch) for c in candidates}, args.rounds)
    rows = []
    for candidate in candidates:
        own, floor = latency[key(candidate)], latency[key(candidate._replace(model=FLOOR))]
        rows.append(
            [
                candidate.runtime,
                candidate.model,
                *(f"{1000 * own.wall:.1f}", f"{own.wall / floor.wall:.2f}"),
                *(f"{1000 * own.cpu:.1f}", f"{own.cpu / floor.cpu:.2f}"),
                *(f"{throughput(candidate, size):.0f}" for size in args.batches),
                candidate.memory(),
                f"{candidate.megabytes:.1f}",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    return rows


def throughput(candidate: Candidate, size: int) -> float:
    """Images per second of CPU time in batches of ``size``; one model at a time, as each holds its activations."""
    batch = images(size)
    timing = in_turns({"": lambda: candidate.run(batch)}, rounds=1, burst=1)
    candidate.release()
    return size / timing[""].cpu


def print_memory(args: argparse.Namespace) -> None:
    """Print the peak memory in MB of this process, or of the GPU, after one image in torch."""
    candidate = torch_candidate(args.memory_of, build(args.memory_of, args), args.device, args)
    candidate.run(images(1))
    print(torch.cuda.max_memory_allocated() / 1e6 if args.device == "cuda" else peak_memory_mb())


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_b4", help="timm name")
    parser.add_argument("--weights", type=Path, help="local weight file of the backbone; random weights without")
    parser.add_argument("--fusions", nargs="*", default=["small", "mobile", "residual"], choices=list(FUSIONS))
    parser.add_argument("--runtimes", nargs="+", choices=[*COMPRESSIONS, "torch"], help="all that can be had without")
    parser.add_argument("--hints", nargs="+", default=["bf16", "f32"], help="OpenVINO's inference precisions")
    parser.add_argument("--root", type=Path, help="images to calibrate INT8 on, in MVTec AD's layout")
    parser.add_argument("--category", nargs="+", default="all", help="product folders below root to calibrate on")
    parser.add_argument("--threads", type=int, default=0, help="0 for all")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64], help="batch sizes for the throughput")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="few rounds at batch 1 only, to try the script")
    parser.add_argument("--out", type=Path, help="folder for the exported models and the table; none are kept without")
    parser.add_argument("--memory-of", choices=[FLOOR, *FUSIONS], help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.runtimes is None:
        args.runtimes = [label for label in (*COMPRESSIONS, "torch") if label != "INT8" or args.root]
    if "INT8" in args.runtimes and not args.root:
        parser.error("INT8 is calibrated on images: name their folder with --root.")
    if args.quick:
        args.rounds, args.batches = 2, []
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def main() -> None:
    """Export, measure, print."""
    args = arguments()
    if args.memory_of:
        print_memory(args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        rows = measure(candidates_for(args, folder), args)
        heads = ["runtime", "model", "ms", "x floor", "CPU ms", "x floor"]
        heads += [*(f"images per CPU s at {size}" for size in args.batches), "peak MB", "MB"]
        weights = "random weights" if args.weights is None else args.weights.name
        note = f"{args.backbone}, {weights}, {SIZE[0]} px, {args.threads or 'all'} threads; {machine()}"
        table = f"{markdown(heads, rows)}\n\n{note}, torch {torch.__version__}"
        print(f"\n{table}")
        if args.out:
            (args.out / "inference.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
