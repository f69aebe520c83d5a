# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Example images of the report: the highest and lowest scores of each category, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anomalib_grad.data.read_or_refuse import DEFAULT_FORMAT, FileFormat, open_up_to
from anomalib_grad.report.pictures import hatched, picture_of
from anomalib_grad.report.records import Example

THUMBNAIL = 160
EXAMPLES = 4


@dataclass(frozen=True)
class Candidate:
    """Image that may become an :class:`Example`, with downsampled map and masks; its pixels stay in the file.

    Attributes:
        anomaly_map: (h, w) float16, at most 160 pixels per side.
        mask: (h, w) bool, ``None`` if there is none.
        ignored: (h, w) bool, ignored pixels, ``None`` if there are none.
    """

    path: str
    anomalous: bool
    score: float
    anomaly_map: np.ndarray
    mask: np.ndarray | None
    ignored: np.ndarray | None = None


@dataclass
class TopExamples:
    """The candidates with the highest (or lowest) scores so far; ties are broken by path, not by order of arrival."""

    highest: bool
    size: int = EXAMPLES
    candidates: list[Candidate] = field(default_factory=list)

    def admits(self, score: float, path: str) -> bool:
        """Return whether an image would be kept."""
        return len(self.candidates) < self.size or self._key(score, path) < self._rank(self.candidates[-1])

    def add(self, *candidates: Candidate) -> None:
        """Insert candidates in order, and keep the first ``size``."""
        self.candidates = sorted([*self.candidates, *candidates], key=self._rank)[: self.size]

    def _rank(self, candidate: Candidate) -> tuple[float, str]:
        return self._key(candidate.score, candidate.path)

    def _key(self, score: float, path: str) -> tuple[float, str]:
        return (-score if self.highest else score, path)


def candidate(
    path: str, anomalous: bool, score: float, anomaly_map: Tensor, mask: Tensor | None, ignored: Tensor | None = None
) -> Candidate:
    """Build a candidate from the map ``(H, W)`` of one image and its bool masks ``(H, W)``, all downsampled."""
    size = _fit(anomaly_map.shape[-2], anomaly_map.shape[-1])
    small = functional.interpolate(anomaly_map[None, None].float(), size=size, mode="bilinear", antialias=True)
    # The maximum keeps a defect of one pixel visible.
    marked, left_out = (
        None if pixels is None else functional.adaptive_max_pool2d(pixels[None].float(), size)[0].bool().cpu().numpy()
        for pixels in (mask, ignored)
    )
    return Candidate(path, anomalous, score, small[0, 0].half().cpu().numpy(), marked, left_out)


def load_example(found: Candidate, low: float = 0.0, high: float = 1.0, files: FileFormat = DEFAULT_FORMAT) -> Example:
    """Read the image of a candidate and resize map and mask to the thumbnail.

    Map values from ``low`` to ``high`` are scaled to [0, 1]. The longer side of the thumbnail has at most 160 pixels.

    Raises:
        FileNotFoundError: If the image no longer exists.
    """
    with open_up_to(Path(found.path), files.max_pixels) as file:
        file.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
        file.load()  # the size of a rotated image may change on loading
        height, width = _fit(file.height, file.width)
        picture = picture_of(file, (height, width), files.bits)
    if found.ignored is not None:
        picture = hatched(picture, found.ignored)
    scaled = (found.anomaly_map.astype(np.float32) - low) / ((high - low) or 1.0)
    return Example(
        path=found.path,
        anomalous=found.anomalous,
        score=found.score,
        image=np.asarray(picture),
        anomaly_map=_resize(scaled, (height, width), "bilinear").clip(0, 1),
        mask=None if found.mask is None else _resize(found.mask, (height, width), "nearest") > 0,
    )


def _resize(values: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    resized = functional.interpolate(torch.from_numpy(values)[None, None].float(), size=size, mode=mode)
    return resized[0, 0].numpy()


def _fit(height: int, width: int) -> tuple[int, int]:
    """Scale a size down so that its longer side has at most 160 pixels."""
    scale = min(1.0, THUMBNAIL / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
