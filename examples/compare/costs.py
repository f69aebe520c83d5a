# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Exports side by side: size, latency in turns, peak memory of a process that does nothing else.

python examples/compare/costs.py model.xml 224     prints that process's peak memory in MB; on Linux
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

MB = 1e6
PRECISION = "f32"
"""Of all rows: OpenVINO would pick bf16 where the CPU has it, which costs one model more than another."""


def size_mb(model: Path) -> float:
    """Size of an export and the weights beside it, in MB."""
    return sum(file.stat().st_size for file in (model, model.with_suffix(".bin"))) / MB


def compiled(model: Path, threads: int) -> ov.CompiledModel:
    """Compile an export for the CPU."""
    config = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": threads}
    return ov.Core().compile_model(model, "CPU", config)


def example(model: ov.CompiledModel, side: int) -> NDArray[np.float32]:
    """One random image ``(1, 3, side, side)``, or as many as the export wants: anomalib's PatchCore takes two."""
    batch = model.input(0).partial_shape[0]
    images = batch.get_length() if batch.is_static else 1
    return np.random.default_rng(0).random((images, 3, side, side), dtype=np.float32)


def latencies(exports: Mapping[str, tuple[Path, int]], threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of an image for every export, on the clock (``ms``) and of the CPU (``cpu_ms``).

    Exports are files and the sides of their images in pixels, by name. Round after round in turns, so that what else
    the machine does hits all alike, each after a run that is not counted. On a machine that others use as well the
    CPU's milliseconds are what compares.
    """
    models = {name: compiled(file, threads) for name, (file, _) in exports.items()}
    images = {name: example(models[name], side) for name, (_, side) in exports.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            model(images[name])
            wall, cpu = time.perf_counter(), time.process_time()
            model(images[name])
            spent = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append((spent[0] / len(images[name]), spent[1] / len(images[name])))
    medians = {name: 1000 * np.median(own, axis=0) for name, own in times.items()}
    return {name: {"ms": float(wall), "cpu_ms": float(cpu)} for name, (wall, cpu) in medians.items()}


def reset_peak() -> None:
    """Have the kernel count this process's peak memory anew; on Linux."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Largest resident memory of this process, in MB; on Linux."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / MB


def inference_peak_mb(model: Path, side: int) -> float:
    """Peak memory in MB of a process that judges one image."""
    command = [sys.executable, __file__, str(model), str(side)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


if __name__ == "__main__":
    network = compiled(Path(sys.argv[1]), threads=1)
    network(example(network, int(sys.argv[2])))
    print(peak_mb())
