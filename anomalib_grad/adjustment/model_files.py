# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Model files, checkpoints and exports: read and replace their thresholds, and score images with their model."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from rich.console import Console
from rich.progress import track

from anomalib_grad.checkpoint.save_and_load import THRESHOLDS
from anomalib_grad.data.read_or_refuse import UnreadableImageError, read_image
from anomalib_grad.data.resizing import resized_to
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.deploy.threshold_files import read_export, write_export
from anomalib_grad.files.checkpoint_io import WholeCheckpointIO
from anomalib_grad.files.configuration import CheckpointConfigurationError, check_weights, restoring
from anomalib_grad.lightning_model import Grad
from anomalib_grad.thresholds.labelled_scores import KnownImage
from anomalib_grad.thresholds.model_thresholds import ModelThresholds
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor, judge

logger = logging.getLogger(__name__)

CHECKPOINT, EXPORTS, TORCH = ".ckpt", {".xml", ".onnx"}, {".pt", ".pth"}
TRUST = "TRUST_REMOTE_CODE"
"""Environment variable by which anomalib is allowed to unpickle a torch export."""
POST_CONFIGURATION = "anomalib_post_processor_config"


RECOGNISER = "recogniser."
"""Prefix of weights whose shapes loading adapts to."""


class ImageScore(NamedTuple):
    """Score of an image of a product.

    Attributes:
        score: Score in the unit of the thresholds.
        peak: Largest value of the anomaly map.
        recognised: Product that the model recognises by itself; ``None`` if it recognises none.
    """

    score: float
    peak: float
    recognised: str | None


def open_model(path: str | Path) -> "ModelFile":
    """Open a model file of any kind.

    Args:
        path: Checkpoint (.ckpt), OpenVINO export (.xml or .bin), ONNX export (.onnx) or torch export (.pt).

    Returns:
        Object that reads the thresholds, replaces them without ever leaving half a file, and scores an image. Its
        methods raise a ValueError if the file is damaged, was changed by hand, or holds no such thresholds, a
        CannotWriteError if the folder cannot be written to, and an UnreadableImageError that names the image.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind, or a torch export that may not be unpickled.
    """
    path = Path(path)
    if path.suffix == ".bin":
        path = path.with_suffix(".xml")
    if path.suffix not in {CHECKPOINT, *EXPORTS, *TORCH}:
        raise ValueError(f"Pass a checkpoint (.ckpt) or an export (.xml, .onnx, .pt), not {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no model {path}; check the path.")
    if path.suffix == CHECKPOINT:
        return _Checkpoint(path)
    return _Export(path) if path.suffix in EXPORTS else _TorchExport(path)


class _Export:
    """An OpenVINO or ONNX export."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> ModelThresholds:
        return read_export(self.path)

    def write(self, thresholds: ModelThresholds) -> None:
        write_export(self.path, thresholds)

    @cached_property
    def _inferencer(self) -> CategoryOpenVINOInferencer:
        return CategoryOpenVINOInferencer(self.path, device="CPU")

    def score(self, image: Path, product: str | None) -> ImageScore:
        scores, peaks, recognised = self._inferencer.raw_scores(image, product)
        return ImageScore(float(scores[0]), float(peaks[0]), recognised[0] if recognised else None)


class _TorchExport:
    """A torch export, which anomalib unpickles."""

    def __init__(self, path: Path) -> None:
        if os.environ.get(TRUST, "0").lower() not in {"1", "true"}:
            raise ValueError(
                f"Opening the torch export {path} can run code hidden in it: set {TRUST}=1 if you trust the file, as "
                "for anomalib's TorchInferencer, or use the checkpoint, an ONNX or an OpenVINO export."
            )
        self.path = path

    @cached_property
    def _content(self) -> dict[str, Any]:
        if not is_zipfile(self.path):
            raise ValueError(f"cannot read the torch export {self.path}: it is cut short; export or copy it again.")
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=False)
        except Exception as error:  # whatever unpickling a damaged file raises
            raise ValueError(f"cannot read the torch export {self.path} ({error}); export or copy it again.") from error
        if not isinstance(content, dict) or not isinstance(content.get("model"), Grad):
            raise ValueError(f"{self.path} is not a torch export of Grad; give a file that to_torch wrote.")  # noqa: TRY004
        return content

    @property
    def _model(self) -> Grad:
        return self._content["model"]

    def read(self) -> ModelThresholds:
        return ModelThresholds.of(_post_processor(self._model.per_category, self.path))

    def write(self, thresholds: ModelThresholds) -> None:
        thresholds.apply_to(_post_processor(self._model.per_category, self.path))
        WholeCheckpointIO().save_checkpoint(self._content, self.path)

    def score(self, image: Path, product: str | None) -> ImageScore:
        return score_by(self._model, image, product)


class _Checkpoint:
    """A training checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = WholeCheckpointIO(Grad.checkpoint_safe_globals())

    @cached_property
    def _content(self) -> dict[str, Any]:
        return self._files.load_checkpoint(self.path, map_location="cpu")

    @cached_property
    def _post_processor(self) -> PerCategoryPostProcessor:
        configuration: Any = self._content.get(POST_CONFIGURATION)
        weights = {
            name.removeprefix(THRESHOLDS): value
            for name, value in self._content.get("state_dict", {}).items()
            if name.startswith(THRESHOLDS)
        }
        known = configuration is not None and "category_image_threshold" in weights
        post_processor = _post_processor(PerCategoryPostProcessor() if known else None, self.path)
        try:
            with restoring("post-processor"):
                post_processor.load_checkpoint_config(configuration)
                own = post_processor.state_dict()
                check_weights({name: own[name] for name in own if not name.startswith(RECOGNISER)}, weights)
                post_processor.load_state_dict(weights)
        except CheckpointConfigurationError as error:
            raise CheckpointConfigurationError(f"cannot use checkpoint {self.path}: {error}") from error
        return post_processor

    def read(self) -> ModelThresholds:
        return ModelThresholds.of(self._post_processor)

    def write(self, thresholds: ModelThresholds) -> None:
        thresholds.apply_to(self._post_processor)
        self._content["state_dict"].update(self._post_processor.state_dict(prefix=THRESHOLDS))
        self._content[POST_CONFIGURATION] = self._post_processor.checkpoint_config()
        self._files.save_checkpoint(self._content, self.path)

    @cached_property
    def _model(self) -> Grad:
        return Grad.load_from_checkpoint(self.path, map_location="cpu")

    def score(self, image: Path, product: str | None) -> ImageScore:
        return score_by(self._model, image, product)


ModelFile = _Export | _TorchExport | _Checkpoint


def _post_processor(found: PerCategoryPostProcessor | None, path: Path) -> PerCategoryPostProcessor:
    """Return the post-processor of a model; raise a ValueError if it keeps no thresholds per product."""
    if found is None:
        raise ValueError(f"{path} holds no thresholds of Grad; train with post_processor=True, the default.")
    return found


@torch.inference_mode()
def score_by(model: Grad, image: Path, product: str | None) -> ImageScore:
    """Score an image of a product, of any size, as an export does."""
    model.eval()
    size = resized_to(getattr(model.pre_processor, "transform", None))
    images = read_image(image, size).unsqueeze(0).as_subclass(torch.Tensor)  # (1, 3, H, W)
    own = model.per_category
    index = None if own is None or product is None else own.indices_of([product])
    raw, _, recognised = judge(model.pre_processor, model.model, own, images, index)[1]
    seen = None if own is None or recognised is None else own.category_names(recognised)[0]
    return ImageScore(raw.pred_score.item(), raw.anomaly_map.max().item(), seen)  # type: ignore[union-attr]  # Grad's


def score_images(
    model: ModelFile, images: Sequence[tuple[Path, bool]], product: str | None, *, progress: bool
) -> list[KnownImage]:
    """Score images; leave out those that cannot be read, and list them in a warning.

    Another warning counts the images in which the model recognises another product.

    Args:
        model: The model.
        images: Files, and whether each is anomalous.
        product: Product in the images.
        progress: Show a progress bar.

    Returns:
        The images that can be read, in their order.

    Raises:
        ValueError: If an image is given as normal and as anomalous.
    """
    normal = {path.resolve() for path, anomalous in images if not anomalous}
    both = next((path for path, anomalous in images if anomalous and path.resolve() in normal), None)
    if both is not None:
        raise ValueError(f"{both} is given as normal and as anomalous, so nothing was changed; give it as one of both.")
    known, faults = [], []
    others: Counter[str] = Counter()
    console = Console(stderr=True)
    for path, anomalous in track(images, f"Scoring {product or 'images'}", console=console, disable=not progress):
        try:
            found = model.score(path, product)
        except UnreadableImageError as error:
            faults.append(f"  {error}")
            continue
        known.append(KnownImage.of(str(path), found.score, found.peak, anomalous=anomalous))
        if found.recognised not in {None, product}:
            others[str(found.recognised)] += 1
    if faults:
        logger.warning(
            "left out %d of %d images, which cannot be read:\n%s", len(faults), len(images), "\n".join(faults)
        )
    if others:
        logger.warning(
            "The model recognises %d of %d images as %s, not as %s. Where it recognises products by itself, as in "
            "anomalib's inferencers, the threshold of %s has no effect on them: name the product for inference "
            "(category=%r), or fit the other products as well.",
            others.total(), len(known), ", ".join(f"{name} ({count})" for name, count in others.most_common()),
            product, product, product,
        )  # fmt: skip
    return known
