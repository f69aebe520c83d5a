# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Which share of the training features' mean square should ``mse_threshold="auto"`` take?

python tests/benchmarks/mse_threshold_share.py --root ../shared/data --weights mobilenetv2_100.safetensors

Trains one head for all categories, on features computed once, for several shares and seeds; prints image AUROC per
category and their mean.
"""

import argparse
from pathlib import Path

import torch
from anomalib.data import AnomalibDataModule
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from anomalib_grad import GradModel, MultiCategory
from anomalib_grad.data.pre_processor import GradPreProcessor
from anomalib_grad.training.mse_threshold import estimate_mse_threshold

BATCH = 16


@torch.no_grad()
def features_of(model: GradModel, data: AnomalibDataModule, subset: str) -> tuple[Tensor, Tensor]:
    """Features ``(N, C, h, w)`` and labels ``(N,)`` of a subset."""
    transform = GradPreProcessor.from_statistics((224, 224), model.backbone.mean, model.backbone.std).transform
    batches = list(getattr(data, f"{subset}_dataloader")())
    features = [model.backbone(transform(batch.image)) for batch in batches]
    return torch.cat(features), torch.cat([batch.gt_label for batch in batches]).int()


def image_aurocs(model: GradModel, train: Tensor, tests: list[tuple[Tensor, Tensor]], epochs: int) -> list[float]:
    """Train the head on features as the recipe does; give the image AUROC on the test features of each category."""
    head = model.head.train()
    optimizer = torch.optim.AdamW(
        [{"params": head.network_parameters(), "lr": 1e-3}, {"params": head.grid_parameters(), "lr": 0.1}],
        weight_decay=0.01,
    )
    for _ in range(epochs):
        for index in torch.randperm(len(train)).split(BATCH):
            loss = functional.mse_loss(head(train[index]).refined, train[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1)
            optimizer.step()
    model.eval()
    with torch.no_grad():
        scores = [
            torch.cat([model(features=part).pred_score for part in features.split(BATCH)]) for features, _ in tests
        ]
    return [float(binary_auroc(score, labels)) for score, (_, labels) in zip(scores, tests, strict=True)]


def main() -> None:
    """Print a row for each share and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="local weight file of timm's mobilenetv2_100")
    parser.add_argument("--categories", nargs="+", default=["ballscrew", "bottle", "commutator", "cookie"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.3, 0.6, 1.2])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=228, help="training steps, in whole epochs")
    args = parser.parse_args()
    extractor = GradModel("mobilenetv2_100", pre_trained=args.weights, fusion="small", num_blocks=0).eval()
    trains, tests = [], []
    for category in args.categories:
        data = MultiCategory(root=args.root, categories=[category], num_workers=0)
        data.setup()
        trains.append(features_of(extractor, data, "train")[0])
        tests.append(features_of(extractor, data, "test"))
    train = torch.cat(trains)
    epochs = max(1, round(args.steps * BATCH / len(train)))
    print(f"| share | seed | {' | '.join(args.categories)} | mean |\n{'|---' * (len(tests) + 3)}|")
    for share in args.shares:
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            model = GradModel("mobilenetv2_100", pre_trained=False, fusion="small")
            model.head.mse_threshold.copy_(estimate_mse_threshold([train], share))
            results = image_aurocs(model, train, tests, epochs)
            cells = [100 * result for result in (*results, sum(results) / len(results))]
            print(f"| {share} | {seed} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
