# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""In which space are product categories told apart best? Pooled backbone features against global coordinates.

python tests/benchmarks/recognition.py CHECKPOINT --root ../shared/data

For a trained unified model: accuracy of the nearest category mean on all test images, in both spaces; how many test
images count as unseen; and, leaving each category out in turn, how many of its images are noticed to be unseen.
Then what thresholds per category are worth: F1 of the image labels against those of the pooled threshold.
"""

import argparse
from pathlib import Path

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1AdaptiveThreshold
from torch import Tensor
from torchmetrics.functional.classification import binary_f1_score

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.categories.recogniser import CategoryRecogniser, pool


@torch.no_grad()
def describe(model: Grad, loader: object, categories: list[str]) -> dict[str, Tensor]:
    """Pooled features, global coordinates, scores, labels and category of every image of a loader."""
    parts: dict[str, list[Tensor]] = {}
    for batch in loader:
        features = model.model.backbone(model.pre_processor.transform(batch.image))
        pooled = pool(features)
        rows = {
            "pooled features": pooled,
            "global coordinates": model.model.head.global_representation.coordinates(pooled),
            "score": model.model(features=features).pred_score,
            "anomalous": batch.gt_label,
            "category": torch.tensor([categories.index(name) for name in batch.category]),
        }
        for name, row in rows.items():
            parts.setdefault(name, []).append(row)
    return {name: torch.cat(rows) for name, rows in parts.items()}


def compare_spaces(train: dict[str, Tensor], test: dict[str, Tensor], categories: list[str]) -> None:
    """Print accuracy and detection of unseen products in both spaces."""
    print(f"{'space':<20} {'recognised':>12} {'taken for unseen':>18} {'left-out products noticed':>27}")
    for space in ("pooled features", "global coordinates"):
        recogniser = CategoryRecogniser()
        recogniser.fit(train[space], train["category"], len(categories))
        answer = recogniser(test[space])
        nearest = recogniser.distances(test[space]).argmin(dim=1)
        noticed = 0
        for left_out in range(len(categories)):
            seen = train["category"] != left_out
            labels = train["category"][seen] - (train["category"][seen] > left_out).long()
            others = CategoryRecogniser()
            others.fit(train[space][seen], labels, len(categories) - 1)
            noticed += int((others(test[space][test["category"] == left_out]) == len(categories) - 1).sum())
        total = len(answer)
        right = int((nearest == test["category"]).sum())
        unseen = int((answer == len(categories)).sum())
        print(f"{space:<20} {right:>6} / {total} {unseen:>12} / {total} {noticed:>19} / {total}")


def compare_thresholds(test: dict[str, Tensor], categories: list[str]) -> None:
    """Print F1 at one pooled threshold and at one for each category, both fitted where they are measured."""

    def threshold(scores: Tensor, labels: Tensor) -> Tensor:
        metric = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
        metric.update(ImageBatch(image=torch.zeros(len(scores), 3, 1, 1), pred_score=scores, gt_label=labels))
        return metric.compute()

    pooled = threshold(test["score"], test["anomalous"])
    rows = []
    for index, name in enumerate(categories):
        of = test["category"] == index
        scores, labels = test["score"][of], test["anomalous"][of].int()
        own = threshold(scores, labels)
        rows.append([float(binary_f1_score((scores >= at).int(), labels)) for at in (pooled, own)])
        print(f"{name:<20} F1 at the pooled threshold {rows[-1][0]:.3f}, at its own {rows[-1][1]:.3f}")
    means = torch.tensor(rows).mean(dim=0)
    print(f"{'mean':<20} F1 at the pooled threshold {means[0]:.3f}, at its own {means[1]:.3f}")


def main() -> None:
    """Measure a checkpoint on a folder of products."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    args = parser.parse_args()
    model = Grad.load_from_checkpoint(args.checkpoint).eval()
    data = MultiCategory(root=args.root, num_workers=0)
    data.setup()
    train = describe(model, data.train_dataloader(), data.categories)
    test = describe(model, data.test_dataloader(), data.categories)
    compare_spaces(train, test, data.categories)
    compare_thresholds(test, data.categories)


if __name__ == "__main__":
    main()
