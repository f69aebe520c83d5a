# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Two checks of the features for anomaly detection, without GRAD: student against teacher.

``python -m tools.distil_grad_tiny.check --data ROOT --teacher mobilenetv2_100.safetensors``, where ROOT has one
folder per category in MVTec AD's layout. Nearest neighbour: distance from each position's features to the nearest of
8000 features drawn from the category's training images. Unified PaDiM: one Gaussian per position, fitted to the
training images of all categories, about 100 per category.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional

from anomalib_grad.backbone.tiny import create_grad_tiny

SIZE = 224
MASK_SIZE = 56
MOST_IMAGES = 100
BANK = 8000


@dataclass(frozen=True)
class Category:
    """Features of one category's training and test images, with the ground truth of the test images."""

    name: str
    train: Tensor  # (n, C, h, w)
    test: Tensor  # (m, C, h, w)
    anomalous: np.ndarray  # (m,) bool
    masks: np.ndarray  # (m, MASK_SIZE, MASK_SIZE) bool


def load_category(folder: Path, backbone: Callable[[Tensor], list[Tensor]]) -> Category:
    """Read a category's images and compute their features."""
    train = sorted((folder / "train" / "good").glob("*.png"))
    test = sorted((folder / "test").glob("*/*.png"))
    anomalous = np.array([path.parent.name != "good" for path in test])
    return Category(
        folder.name,
        _features(train[:: max(len(train) // MOST_IMAGES, 1)], backbone),
        _features(test, backbone),
        anomalous,
        np.stack([_mask(folder, path) for path in test]),
    )


def nearest_neighbour(category: Category) -> Tensor:
    """Return distances (m, h, w) to the nearest normal features, with channels scaled to unit variance."""
    scale = category.train.std(dim=(0, 2, 3), keepdim=True)
    normal = (category.train / scale).permute(0, 2, 3, 1).flatten(0, 2)  # (n h w, C)
    chosen = torch.randperm(len(normal), generator=torch.Generator().manual_seed(0))[:BANK]
    queries = (category.test / scale).permute(0, 2, 3, 1).flatten(0, 2)
    distances = torch.cat([torch.cdist(part, normal[chosen]).amin(dim=1) for part in queries.split(2000)])
    return distances.view(len(category.test), *category.test.shape[-2:])


def unified_padim(categories: list[Category]) -> list[Tensor]:
    """Return Mahalanobis distances (m, h, w) of each category's test images to one model of all categories."""
    train = torch.cat([category.train for category in categories])
    count, channels, height, width = train.shape
    mean = train.mean(dim=0)
    centred = (train - mean).permute(2, 3, 1, 0).reshape(height * width, channels, count)
    covariance = centred @ centred.transpose(1, 2) / (count - 1) + 0.01 * torch.eye(channels) * train.var()
    inverse = torch.linalg.inv(covariance)  # (h w, C, C)
    result = []
    for category in categories:
        away = (category.test - mean).permute(2, 3, 0, 1).flatten(0, 1)  # (h w, m, C)
        squared = ((away @ inverse) * away).sum(dim=-1).clamp(min=0)  # (h w, m)
        result.append(squared.sqrt().T.reshape(-1, height, width))
    return result


def aurocs(distances: Tensor, category: Category) -> tuple[float, float]:
    """Return image and pixel AUROC in percent, with GRAD's smoothing and image score (method section 8)."""
    full = functional.interpolate(distances[:, None], (SIZE, SIZE), mode="bilinear", align_corners=True)
    smooth = functional.avg_pool2d(full, 21, stride=1, padding=10)
    scores = functional.avg_pool2d(smooth, 32, stride=1).amax(dim=(1, 2, 3))
    small = functional.interpolate(smooth, (MASK_SIZE, MASK_SIZE), mode="bilinear")[:, 0]
    image = roc_auc_score(category.anomalous, scores.numpy())
    pixel = roc_auc_score(category.masks.ravel(), small.numpy().ravel())
    return 100 * float(image), 100 * float(pixel)


def _features(paths: list[Path], backbone: Callable[[Tensor], list[Tensor]]) -> Tensor:
    parts = []
    with torch.no_grad():
        for start in range(0, len(paths), 16):
            fine, coarse = backbone(torch.stack([_image(path) for path in paths[start : start + 16]]))
            coarse = functional.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True)
            parts.append(torch.cat([fine, coarse], dim=1))
    return torch.cat(parts)


def _image(path: Path) -> Tensor:
    with Image.open(path) as file:
        picture = np.array(file.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    image = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    return (image - torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_DEFAULT_STD).view(
        3, 1, 1
    )


def _mask(folder: Path, image: Path) -> np.ndarray:
    if image.parent.name == "good":
        return np.zeros((MASK_SIZE, MASK_SIZE), dtype=bool)
    with Image.open(folder / "ground_truth" / image.parent.name / f"{image.stem}_mask.png") as file:
        return np.array(file.resize((MASK_SIZE, MASK_SIZE), Image.Resampling.NEAREST)) > 0


def main(arguments: list[str] | None = None) -> None:
    """Print image and pixel AUROC of both checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per category")
    parser.add_argument("--teacher", type=Path, required=True, help="timm weights of mobilenetv2_100 (safetensors)")
    options = parser.parse_args(arguments)
    teacher = timm.create_model(
        "mobilenetv2_100",
        features_only=True,
        out_indices=(2, 3),
        pretrained=True,
        pretrained_cfg_overlay={"file": str(options.teacher)},
    ).eval()
    for name, backbone in (("grad_tiny", create_grad_tiny()), ("mobilenetv2_100", teacher)):
        folders = sorted(folder for folder in options.data.iterdir() if (folder / "train" / "good").is_dir())
        categories = [load_category(folder, backbone) for folder in folders]
        checks = {
            "nearest neighbour": [nearest_neighbour(category) for category in categories],
            "unified PaDiM": unified_padim(categories),
        }
        for check, distances in checks.items():
            results = [aurocs(part, category) for part, category in zip(distances, categories, strict=True)]
            for category, (image, pixel) in zip(categories, results, strict=True):
                sys.stdout.write(f"{name:16} {check:18} {category.name:12} {image:5.1f} {pixel:5.1f}\n")
            image, pixel = np.mean(results, axis=0)
            sys.stdout.write(f"{name:16} {check:18} {'mean':12} {image:5.1f} {pixel:5.1f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
