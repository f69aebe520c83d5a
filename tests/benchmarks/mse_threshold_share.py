# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which share of the training features' mean square should ``mse_threshold="auto"`` take?

python tests/benchmarks/mse_threshold_share.py --root ../shared/data --weights mobilenetv2_100.safetensors

Trains the head alone, on features computed once, for several shares and seeds; prints image AUROC per category.
"""

import argparse
import time
from pathlib import Path

import torch
from anomalib.data import AnomalibDataModule
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from anomalib_grad import GradModel, MultiCategory
from anomalib_grad.calibration import estimate_mse_threshold
from anomalib_grad.pre_processor import GradPreProcessor

BATCH = 16


@torch.no_grad()
def features_of(model: GradModel, data: AnomalibDataModule, subset: str) -> tuple[Tensor, Tensor]:
    """Features ``(N, C, h, w)`` and labels ``(N,)`` of a subset."""
    transform = GradPreProcessor.from_statistics((224, 224), model.backbone.mean, model.backbone.std).transform
    batches = list(getattr(data, f"{subset}_dataloader")())
    features = [model.backbone(transform(batch.image)) for batch in batches]
    return torch.cat(features), torch.cat([batch.gt_label for batch in batches]).int()


def image_auroc(model: GradModel, train: Tensor, test: tuple[Tensor, Tensor], epochs: int) -> float:
    """Train the head on features as the recipe does; give the image AUROC on the test features."""
    head = model.head.train()
    optimizer = torch.optim.AdamW(
        [{"params": head.network_parameters(), "lr": 1e-3}, {"params": head.grid_parameters(), "lr": 0.1}],
        weight_decay=0.01,
    )
    for _ in range(epochs):
        for index in torch.randperm(len(train)).split(BATCH):
            loss = functional.mse_loss(head(train[index]), train[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1)
            optimizer.step()
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model.predict(part).pred_score for part in test[0].split(BATCH)])
    return float(binary_auroc(scores, test[1]))


def main() -> None:
    """Print a row for each share and category."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="local weight file of timm's mobilenetv2_100")
    parser.add_argument("--categories", nargs="+", default=["bottle", "cookie"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.15, 0.3, 0.6, 1.0, 2.0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=130, help="training steps, in whole epochs")
    args = parser.parse_args()
    print("| category | share | image AUROC, one a seed | s |\n|---|---|---|---|")
    for category in args.categories:
        data = MultiCategory(root=args.root, categories=[category], num_workers=0)
        data.setup()
        extractor = GradModel("mobilenetv2_100", pre_trained=args.weights, fusion="small", num_blocks=0).eval()
        train, test = features_of(extractor, data, "train")[0], features_of(extractor, data, "test")
        epochs = max(1, round(args.steps * BATCH / len(train)))
        for share in args.shares:
            start, results = time.perf_counter(), []
            for seed in range(args.seeds):
                torch.manual_seed(seed)
                model = GradModel("mobilenetv2_100", pre_trained=False, fusion="small")
                model.head.mse_threshold.copy_(estimate_mse_threshold([train], share))
                results.append(image_auroc(model, train, test, epochs))
            row = ", ".join(f"{100 * result:.1f}" for result in results)
            print(f"| {category} | {share} | {row} | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
