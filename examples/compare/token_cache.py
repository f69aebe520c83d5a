# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Cache for the tokens of a frozen vision transformer, computed once per image for all models and blocks.

On a CPU, the encoder dominates the cost of comparing models on one encoder. The tokens of every block are stored in
float16, one file per image. Its name is the hash of the pixels, so that a changed image is a new entry.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

TOLERANCE = 0.02
"""Largest difference from the tokens that a model's own encoder computes, as a share of their largest value."""


class TokenCache:
    """Cache for the tokens of one encoder.

    Args:
        encoder: The whole pretrained encoder.
        folder: Folder of the cache, for this encoder only.

    Attributes:
        seconds: CPU seconds saved: the encoder's time for all requested images, less the time actually spent on it.
    """

    def __init__(self, encoder: VisionTransformer, folder: Path) -> None:
        self.encoder = encoder.eval()
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds = 0.0
        self._cost = folder / "seconds.txt"

    def tokens(self, images: Tensor) -> Tensor:
        """Return the tokens ``(B, blocks, prefix + N, C)`` of images ``(B, 3, H, W)``, prefix tokens first."""
        files = [self.folder / f"{hashlib.blake2b(image.numpy().tobytes()).hexdigest()[:32]}.npy" for image in images]
        missing = [number for number, file in enumerate(files) if not file.exists()]
        if missing:
            self._compute(images[missing], [files[number] for number in missing])
        self.seconds += len(files) * float(self._cost.read_text())
        return torch.from_numpy(np.stack([np.load(file) for file in files])).float()

    @torch.no_grad()
    def _compute(self, images: Tensor, files: list[Path]) -> None:
        start = time.process_time()
        with torch.autocast("cpu", enabled=False):
            found = all_tokens(self.encoder, images, range(len(self.encoder.blocks)))
        seconds = time.process_time() - start
        self._cost.write_text(str(seconds / len(files)))
        self.seconds -= seconds  # these were not saved
        for file, own in zip(files, found.half().numpy(), strict=True):
            temporary = file.with_suffix(".tmp.npy")
            np.save(temporary, own)
            temporary.replace(file)


def all_tokens(encoder: VisionTransformer, images: Tensor, blocks: Sequence[int]) -> Tensor:
    """Return the tokens ``(B, blocks, prefix + N, C)`` after some blocks, without the final norm."""
    parts = type(encoder).forward_intermediates(
        encoder, images, indices=list(blocks), return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    return torch.stack([torch.cat([prefix, patches], dim=1) for patches, prefix in parts], dim=1)


class CachedIntermediates:
    """Replaces an encoder's ``forward_intermediates``, with the same arguments as in timm."""

    def __init__(self, encoder: VisionTransformer, cache: TokenCache) -> None:
        self.encoder = encoder
        self.cache = cache
        self._checked = False

    def __call__(
        self,
        x: Tensor,
        indices: Sequence[int],
        return_prefix_tokens: bool = False,
        norm: bool = False,
        output_fmt: str = "NCHW",
        **_: Any,  # noqa: ANN401  # the final tokens, which no caller here asks for
    ) -> list[Any]:
        """Return the tokens of some blocks, as timm does with ``intermediates_only``."""
        tokens = self.cache.tokens(x)[:, list(indices)]
        if not self._checked:
            self._check(x[:1], tokens[:1], indices)
        prefixes = self.encoder.num_prefix_tokens
        results: list[Any] = []
        for own in tokens.unbind(dim=1):
            normed = self.encoder.norm(own) if norm else own
            prefix, patches = normed[:, :prefixes], normed[:, prefixes:]
            if output_fmt == "NCHW":
                height, width = self.encoder.patch_embed.dynamic_feat_size(x.shape[-2:])
                patches = patches.transpose(1, 2).unflatten(2, (height, width)).contiguous()
            results.append((patches, prefix) if return_prefix_tokens else patches)
        return results

    @torch.no_grad()
    def _check(self, image: Tensor, tokens: Tensor, indices: Sequence[int]) -> None:
        """Raise a ValueError unless the model's own encoder gives the cached tokens for an image."""
        with torch.autocast("cpu", enabled=False):
            own = all_tokens(self.encoder, image, indices)
        if float((own - tokens).abs().max()) > TOLERANCE * float(own.abs().max()):
            raise ValueError("this model's encoder computes other tokens than the cached ones: run it without --memory")
        self._checked = True


@contextmanager
def cached_tokens(model: nn.Module, cache: TokenCache) -> Iterator[None]:
    """Make every vision transformer in a model read its tokens from the cache inside the block."""
    encoders = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    for encoder in encoders:
        encoder.forward_intermediates = CachedIntermediates(encoder, cache)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for encoder in encoders:
            del encoder.forward_intermediates  # restores the class's method
