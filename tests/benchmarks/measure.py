# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: times taken in turns, peak memory, tables.

python tests/benchmarks/measure.py model.xml --hint f32

prints the peak memory in MB of a process that does nothing but run this model once. On Linux.
"""

import argparse
import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray

SIZE = (224, 224)
MB = 1e6


class Timing(NamedTuple):
    """Medians of a run: seconds that passed, and seconds that the CPU worked for it."""

    wall: float
    cpu: float


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int, burst: int = 3) -> dict[str, Timing]:
    """Time runs round after round, all of them in each, so that what else the machine does hits all alike.

    Each turn runs ``burst`` times after one that is not counted, which finds the caches as another run left them.
    """
    seconds: dict[str, list[Timing]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            for _ in range(burst):
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                seconds[name].append(Timing(time.perf_counter() - wall, time.process_time() - cpu))
    return {name: Timing(*np.median(timings, axis=0).tolist()) for name, timings in seconds.items()}


def compile_model(path: Path, hint: str, threads: int) -> ov.CompiledModel:
    """Compile an exported model for the CPU; ``hint`` is OpenVINO's inference precision, ``threads`` 0 for all."""
    config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    return ov.Core().compile_model(path, "CPU", {key: value for key, value in config.items() if value})


def images(number: int, side: int = SIZE[0]) -> NDArray[np.float32]:
    """Random square images ``(number, 3, side, side)`` in [0, 1]; ``side`` in pixels."""
    return np.random.default_rng(0).random((number, 3, side, side), dtype=np.float32)


def size_mb(path: Path) -> float:
    """Size of an exported model in MB, its weights beside it included."""
    return sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.exists()) / MB


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB.

    Read from the kernel's note on this program: ``getrusage`` would include the process that started it.
    """
    return _memory_mb("VmHWM")


def peak_memory_above(run: Callable[[], object]) -> float:
    """Largest resident memory while something runs, in MB above what there was before; a run before it warms up.

    What the C library keeps of memory that was freed goes back before: it would hide as much of the run's own.
    """
    run()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak starts anew
    before = _memory_mb("VmRSS")
    run()
    return peak_memory_mb() - before


def _memory_mb(name: str) -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) * 1024 / MB


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Render a markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machine() -> str:
    """One line on what was measured on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = {line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")}
    cores = info.count("model name")
    return f"{cores} x {', '.join(sorted(names)) or 'CPU'}, OpenVINO {ov.__version__.partition('-')[0]}"


def main() -> None:
    """Print the peak memory of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--hint", default="f32", help="OpenVINO's inference precision: f32, bf16 or f16")
    parser.add_argument("--threads", type=int, default=0, help="0 for all")
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    compile_model(args.model, args.hint, args.threads)(images(args.batch))
    print(peak_memory_mb())


if __name__ == "__main__":
    main()
