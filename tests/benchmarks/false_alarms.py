# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Promised and realised rates of false alarms on real products, with thresholds from normal images alone.

python tests/benchmarks/false_alarms.py CHECKPOINT --root ../shared/data

The normal test images of each product are halved at random, many times: thresholds come from one half
(``Grad(false_alarm_rate=...)``), false alarms are counted on the other; so are the anomalous images that are found.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from measure import markdown
from recognition import describe

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.thresholds.rules import false_alarm_threshold

HEADS = ["product", "normal images a half", "promised", "false alarms", "anomalous images found"]


def halves(normal: np.ndarray, anomalous: np.ndarray, rate: float, repetitions: int) -> tuple[float, float]:
    """Share of normal and of anomalous images above the thresholds of random halves, averaged."""
    random = np.random.default_rng(0)
    alarms, found = [], []
    for _ in range(repetitions):
        order = random.permutation(normal)
        threshold = false_alarm_threshold(order[: len(order) // 2].tolist(), rate)
        alarms.append((order[len(order) // 2 :] > threshold).mean())
        found.append((anomalous > threshold).mean())
    return float(np.mean(alarms)), float(np.mean(found))


def main() -> None:
    """Measure a checkpoint on a folder of products."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--repetitions", type=int, default=2000)
    args = parser.parse_args()
    model = Grad.load_from_checkpoint(args.checkpoint).eval()
    data = MultiCategory(root=args.root, num_workers=0)
    data.setup()
    test = describe(model, data.test_dataloader(), data.categories)
    rows = []
    for index, name in enumerate(data.categories):
        of = test["category"] == index
        scores, anomalous = test["score"][of].numpy(), torch.as_tensor(test["anomalous"][of]).bool().numpy()
        for rate in args.rates:
            alarms, found = halves(scores[~anomalous], scores[anomalous], rate, args.repetitions)
            half = (~anomalous).sum() // 2
            rows.append([name, half, f"{100 * rate:.0f} %", f"{100 * alarms:.1f} %", f"{100 * found:.1f} %"])
    print(markdown(HEADS, rows))


if __name__ == "__main__":
    main()
