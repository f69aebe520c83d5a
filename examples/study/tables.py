# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the study: means over seeds, difference from the better baseline, and choice with a product held out."""

from collections.abc import Mapping, Sequence

import numpy as np

Rows = Mapping[str, Sequence[Mapping[str, float]]]
"""Metrics of every seed, by row."""


def mean_of(runs: Sequence[Mapping[str, float]], figure: str) -> float:
    """Return the mean of a metric over the seeds, in percent."""
    return 100 * float(np.mean([run[figure] for run in runs]))


def spread_of(runs: Sequence[Mapping[str, float]], figure: str) -> str:
    """Return mean and standard deviation of a metric over the seeds, in percent."""
    values = [100 * run[figure] for run in runs]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *lines))


def main_table(rows: Rows, categories: Sequence[str]) -> str:
    """Return a table of each product's image AUROC, their mean and worst, and the means of other metrics."""
    heads = [
        "row",
        "seeds",
        *categories,
        "mean",
        "worst",
        "pixel AUROC",
        "AUPRO",
        "F1Max",
        "F1, one threshold",
        "CPU s",
    ]
    lines = []
    for name, runs in rows.items():
        own = [mean_of(runs, f"{category}/image_AUROC") for category in categories]
        others = [mean_of(runs, f) for f in ("mean/pixel_AUROC", "mean/pixel_AUPRO", "own/image_F1", "shared/image_F1")]
        cells = [spread_of(runs, "mean/image_AUROC"), *(f"{value:.1f}" for value in (min(own), *others))]
        seconds = np.mean([run["train_s"] for run in runs])
        lines.append([name, str(len(runs)), *(f"{value:.1f}" for value in own), *cells, f"{seconds:.0f}"])
    return table(heads, lines)


def pixel_table(rows: Rows, categories: Sequence[str]) -> str:
    """Return a table of pixel AUROC and AUPRO of every product with masks."""
    first = next(iter(rows.values()))
    masked = [category for category in categories if not np.isnan(first[0][f"{category}/pixel_AUROC"])]
    lines = [
        [name, *(" / ".join(f"{mean_of(runs, f'{own}/{figure}'):.1f}" for figure in FIGURES) for own in masked)]
        for name, runs in rows.items()
    ]
    return table(["pixel AUROC / AUPRO", *masked], lines)


FIGURES = ("pixel_AUROC", "pixel_AUPRO")


def baseline_table(rows: Rows, categories: Sequence[str], baselines: Sequence[str]) -> str:
    """Return a table of each product's image AUROC minus that of the better baseline."""
    better = {own: max(mean_of(rows[name], f"{own}/image_AUROC") for name in baselines) for own in categories}
    lines = []
    for name, runs in rows.items():
        gains = [mean_of(runs, f"{own}/image_AUROC") - better[own] for own in categories]
        lines.append([name, *(f"{gain:+.1f}" for gain in gains), f"{min(gains):+.1f}"])
    return table([f"against the better of {' and '.join(baselines)}", *categories, "worst"], lines)


def stress_table(rows: Rows, categories: Sequence[str], stresses: Sequence[str]) -> str:
    """Return a table of the mean image AUROC on degraded test images, minus that on the unchanged ones."""
    lines = []
    for name, runs in rows.items():
        plain = mean_of(runs, "mean/image_AUROC")
        falls = [
            np.mean([mean_of(runs, f"{own}/{stress}/image_AUROC") for own in categories]) - plain for stress in stresses
        ]
        lines.append([name, f"{plain:.1f}", *(f"{fall:+.1f}" for fall in falls)])
    return table(["image AUROC on test images that are", "unchanged", *stresses], lines)


def held_out_table(rows: Rows, categories: Sequence[str], baselines: Sequence[str]) -> str:
    """Choose a row by the mean image AUROC of all products but one, and report it on the held-out product."""
    auroc = {name: {own: mean_of(runs, f"{own}/image_AUROC") for own in categories} for name, runs in rows.items()}
    lines, found = [], []
    for left_out in categories:
        others = [category for category in categories if category != left_out]
        chosen = max(auroc, key=lambda name: np.mean([auroc[name][category] for category in others]))
        found.append(auroc[chosen][left_out])
        references = [f"{auroc[name][left_out]:.1f}" for name in baselines]
        lines.append([left_out, chosen, f"{found[-1]:.1f}", *references])
    means = [np.mean(list(auroc[name].values())) for name in baselines]
    worst = [min(auroc[name].values()) for name in baselines]
    lines.append(["mean", "", f"{np.mean(found):.1f}", *(f"{value:.1f}" for value in means)])
    lines.append(["worst", "", f"{min(found):.1f}", *(f"{value:.1f}" for value in worst)])
    return table(["left out of the choice", "chosen on the others", "gives", *baselines], lines)
