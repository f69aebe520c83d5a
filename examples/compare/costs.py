# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Costs of exported models: size, latency measured in turns, and peak memory of a separate process.

python examples/compare/costs.py model.xml 224     prints the peak memory of such a process in MB; Linux only
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
"""Precision of all rows: OpenVINO would choose bf16 if the CPU supports it, which affects models differently."""


def size_mb(model: Path) -> float:
    """Return the size of an export and its weights file, in MB."""
    return sum(file.stat().st_size for file in (model, model.with_suffix(".bin"))) / MB


def compiled(model: Path, threads: int) -> ov.CompiledModel:
    """Compile an export for the CPU."""
    config = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": threads}
    return ov.Core().compile_model(model, "CPU", config)


def example(model: ov.CompiledModel, side: int) -> NDArray[np.float32]:
    """Return one random image ``(1, 3, side, side)``, or the export's fixed batch: anomalib's PatchCore takes two."""
    batch = model.input(0).partial_shape[0]
    images = batch.get_length() if batch.is_static else 1
    return np.random.default_rng(0).random((images, 3, side, side), dtype=np.float32)


def latencies(exports: Mapping[str, tuple[Path, int]], threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the median milliseconds per image of every export, in wall time (``ms``) and CPU time (``cpu_ms``).

    ``exports`` are files and the sides of their images in pixels, by name. In every round, exports take turns, each
    after an untimed run, so that other load on the machine affects all alike. On a shared machine, compare CPU times.
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
    """Reset the kernel's record of this process's peak memory; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the peak resident memory of this process, in MB; Linux only."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / MB


def inference_peak_mb(model: Path, side: int) -> float:
    """Return the peak memory in MB of a process that predicts on one image."""
    command = [sys.executable, __file__, str(model), str(side)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


if __name__ == "__main__":
    network = compiled(Path(sys.argv[1]), threads=1)
    network(example(network, int(sys.argv[2])))
    print(peak_mb())
