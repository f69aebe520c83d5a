# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The study's tables: means and spreads over seeds, and the choice that leaves a category out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Figures of every seed, by recipe."""
METRICS = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AUPRO")


def cell(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation of a figure over the seeds."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def main_table(rows: Rows, categories: Sequence[str], latency: Mapping[str, float]) -> str:
    """Render every recipe; percent, training in CPU seconds, latency in ms."""
    heads = ["recipe", *categories, "image AUROC", "F1Max", "pixel AUROC", "AUPRO", "train CPU s", "ms"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, runs in rows.items():
        cells = [cell([100 * run[f"{category}/image_AUROC"] for run in runs]) for category in categories]
        cells += [cell([100 * run[f"mean/{metric}"] for run in runs]) for metric in METRICS]
        cells += [cell([run["train_s"] for run in runs], 0), f"{latency[name]:.1f}" if name in latency else ""]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def held_out_table(rows: Rows, categories: Sequence[str], reference: str) -> str:
    """Choose a recipe by the image AUROC of all categories but one, and report that one's against a reference."""
    auroc = {
        name: {category: 100 * np.mean([run[f"{category}/image_AUROC"] for run in runs]) for category in categories}
        for name, runs in rows.items()
    }
    lines = [f"| left out | chosen on the others | its image AUROC | of '{reference}' |", "|---|---|---|---|"]
    gains = []
    for left_out in categories:
        others = [category for category in categories if category != left_out]
        chosen = max(auroc, key=lambda name: np.mean([auroc[name][category] for category in others]))
        gains.append(auroc[chosen][left_out] - auroc[reference][left_out])
        lines.append(f"| {left_out} | {chosen} | {auroc[chosen][left_out]:.1f} | {auroc[reference][left_out]:.1f} |")
    return "\n".join(lines) + f"\n\nMean gain on categories left out of the choice: {np.mean(gains):+.1f}"
