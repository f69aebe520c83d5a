# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Features that are computed once for many trainings on some of the same products, and for their tests.

Training images: a training of some products reads its rows from the cache of all of them, with the copies that were
made there. Validation and test images: what the backbone makes of one is kept on disk under the hash of its pixels.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anomalib_grad import Grad
from anomalib_grad.backbone import FrozenBackbone
from anomalib_grad.feature_cache import FeatureCaching
from anomalib_grad.feature_cache.dataset import CachedFeatures, cached_loader
from anomalib_grad.feature_cache.fingerprint import hash_weights


class Part:
    """Some rows of an array, read when they are asked for.

    Args:
        rows: The array ``(N, F)``.
        places: Which of them, in their order.
    """

    def __init__(self, rows: np.ndarray, places: Sequence[int]) -> None:
        self.rows = rows
        self.places = np.asarray(places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, indices: Sequence[int]) -> np.ndarray:
        return self.rows[self.places[indices]]


class SharedFeatures(FeatureCaching):
    """Trains on rows of another training's cache.

    Args:
        rows: Features ``(N, F)`` of that training's images and their copies.
        samples: anomalib's frame of the same N.
    """

    def __init__(self, rows: np.ndarray, samples: pd.DataFrame) -> None:
        self.rows = rows
        self._places = defaultdict(list)
        for place, path in enumerate(samples["image_path"]):
            self._places[path].append(place)

    def training_loader(self, trainer: pl.Trainer, images: object) -> object:
        """Give a loader that draws as ``images`` does; an image's versions follow in the order of the cache."""
        del trainer
        assert isinstance(images, DataLoader)
        assert self.rows is not None
        samples, version = images.dataset.samples, Counter[str]()  # type: ignore[attr-defined]
        places = []
        for path in samples["image_path"]:
            places.append(self._places[path][version[path]])
            version[path] += 1
        return cached_loader(images, CachedFeatures(Part(self.rows, places), samples))  # type: ignore[arg-type]


def share_features(model: Grad, source: Grad) -> None:
    """Have a model train on features that another one cached, which has been trained on all images."""
    rows, loader = source.feature_caching.rows, source.trainer.train_dataloader
    assert rows is not None
    model.feature_caching = SharedFeatures(rows, loader.dataset.samples)


def remember(backbone: FrozenBackbone, folder: Path) -> None:
    """Have a backbone compute the maps of an image once, and read them from then on."""
    compute = backbone.feature_maps
    backbone.ensure_weights()
    own = folder / "-".join([hash_weights(backbone.network)[:8], *backbone.layers, *map(str, backbone.image_size)])
    own.mkdir(parents=True, exist_ok=True)

    def feature_maps(images: Tensor) -> list[Tensor]:
        files = [own / f"{hashlib.blake2b(image.cpu().numpy().tobytes()).hexdigest()[:32]}.npy" for image in images]
        missing = [number for number, file in enumerate(files) if not file.exists()]
        if missing:
            found = torch.cat([part.flatten(1) for part in compute(images[missing])], dim=1)
            for number, row in zip(missing, found.cpu().numpy(), strict=True):
                temporary = files[number].with_suffix(".tmp.npy")
                np.save(temporary, row)
                temporary.replace(files[number])
        return backbone.unflatten(torch.from_numpy(np.stack([np.load(file) for file in files])))

    backbone.feature_maps = feature_maps  # type: ignore[method-assign]
