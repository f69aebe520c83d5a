# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Extend an old model with new products, and preserve its products even if their images are gone.

A checkpoint carries a small sample of each product's features (``feature_sample.py``). Training uses images of new
products only. Every step also draws sampled features of old products, half as many rows as there are new images. It
penalises the difference between the new and the old head on them (``old_head.py``). Distance units and the recogniser
learn the old products from the same sample. Training leaves out images of old products even if they are available: in
the same number of steps, they slow down learning the new products and preserve the old ones no better.

Scores of old products drift all the same, and unseen images drift differently from training images. Thresholds of old
products are therefore fitted on validation images, or adapted to the validation images whose features are stored.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from anomalib_grad.backbone import FrozenBackbone
from anomalib_grad.data.dataset import MultiCategoryDataset
from anomalib_grad.feature_cache import FeatureBatch, features_of
from anomalib_grad.files.checkpoint_reading import restore
from anomalib_grad.files.configuration import CheckpointConfigurationError, check_weights, restoring
from anomalib_grad.files.refusals import check_names_are_text
from anomalib_grad.settings import Settings
from anomalib_grad.thresholds.category_thresholds import UNKNOWN
from anomalib_grad.thresholds.model_thresholds import ModelThresholds
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor, per_category_or_none
from anomalib_grad.torch_model import GradModel, network_of

from .feature_sample import FeatureSample, ValidationSampler, rescore
from .feature_statistics import spread_by_category, training_batches
from .old_head import OldHead, freeze_batch_norm
from .validation import BeforeThresholds

logger = logging.getLogger(__name__)

HELD_PRODUCTS_KEY = "grad_kept_products"
OLD_HEAD_KEY = "grad_old_head"
DRIFT_WEIGHT = 4.0
"""Weight of the head's drift from the old head, relative to the loss on new products."""


def products_to_keep(
    old: Sequence[str], new: Sequence[str], replaced: Sequence[str], sampled: Sequence[str]
) -> list[str]:
    """Return the products of an old model that must be preserved without images.

    Args:
        old: Products of the old model.
        new: Products in the data.
        replaced: Products of the old model that the data may replace.
        sampled: Products whose features the old model has sampled.

    Returns:
        Names of the old products that the data lack, in the order of ``old``.

    Raises:
        ValueError: If the data name no products, contain some old products that are not replaced but lack others, or
            lack one without a sample. Also if the old model does not know a replaced product.
    """
    if old and not new:
        raise ValueError(
            f"the old model distinguishes {', '.join(old)}, but the data do not name their products: give a datamodule "
            f"that names them, such as MultiCategory (--data, in Python datamodule=...)."
        )
    unknown = [name for name in replaced if name not in old]
    if unknown:
        raise ValueError(
            f"replaces names {', '.join(unknown)}, but the old model knows {', '.join(old) or 'no product by name'}: "
            f"name only products that the old model knows, or omit replaces."
        )
    kept = [name for name in old if name not in new]
    clash = sorted((set(old) & set(new)) - set(replaced))
    if kept and clash:
        raise ValueError(
            f"the old model already knows {', '.join(clash)}, and the data contain no images of {', '.join(kept)}: "
            f"give images of all its products or only of new ones, or name in replaces the products to learn again."
        )
    missing = [name for name in kept if name not in sampled]
    if missing:
        raise ValueError(
            f"the data contain no images of {', '.join(missing)}, and the old checkpoint no features: give images of "
            f"all its products. Checkpoints contain features unless cache.sample_mb is 0."
        )
    return kept


def products_to_hold(
    old: Sequence[str], new: Sequence[str], replaced: Sequence[str], sampled: Sequence[str]
) -> list[str]:
    """Return the products that are preserved by their sampled features, if the data contain all old products.

    The arguments are those of :func:`products_to_keep`.

    Returns:
        Names of all old products that are not replaced; empty if there is no other product to learn, or if one of them
        has no sample.
    """
    held = [name for name in old if name not in replaced]
    return held if set(new) - set(held) and set(held) <= set(sampled) else []


class Extending(BeforeThresholds):
    """Starts training from an old checkpoint, replays features of old products, and samples those of trained products.

    Args:
        path: The old checkpoint; ``None`` starts afresh.
        replaces: Products of the old model that the data may replace.
        sample: Sampled features by product: first those of the old model, later those of this one.

    Attributes:
        held: Old products that training preserves by their sampled features, without their images.
        kept: Products of ``held`` that are not in the data at all.

    Raises:
        ValueError: If ``replaces`` names products and there is no old checkpoint, or a name is not text.
    """

    def __init__(self, path: str | Path | None, replaces: Sequence[str] | str, sample: FeatureSample) -> None:
        replaces = [replaces] if isinstance(replaces, str) else list(replaces)
        check_names_are_text(replaces, "replaces")
        if replaces and path is None:
            raise ValueError(
                f"replaces names {', '.join(replaces)}, but there is no old model: give its checkpoint as extends, or "
                "omit replaces."
            )
        self.path = path
        self.replaces = replaces
        self.held: list[str] = []
        self.kept: list[str] = []
        self._began_with: list[str] = []
        self._images: Any = None
        self._sample = sample
        self._old = OldHead()
        self._validation = ValidationSampler()
        self._first = True

    # ------------------------------------------------------------------ starting

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the old model, unless this training resumes from its own checkpoint.

        Raises:
            ValueError: If these data cannot extend the old model (see :func:`products_to_keep`), or if this model has
                already been extended by products that these data lack: it would start again without them.
        """
        if stage != "fit":
            return
        self._first = True
        self._hold(trainer, pl_module, [])
        if self.path is None or trainer.ckpt_path is not None:
            return
        post_processor = per_category_or_none(pl_module.post_processor)
        given = None if post_processor is None else post_processor.false_alarm_rate
        new = products_of(trainer)
        known = [] if post_processor is None else post_processor.categories
        learnt = [name for name in known if name not in {*self._began_with, *new}]
        if learnt:
            raise ValueError(
                f"this model has already learnt {', '.join(learnt)}, and starting again from {self.path} would discard "
                f"that: give a checkpoint of this model to a new Grad as extends."
            )
        restore(pl_module, self.path, pl_module.checkpoint_safe_globals())  # type: ignore[operator]  # anomalib's
        if post_processor is not None and given is not None:
            post_processor.false_alarm_rate = given
        old = [] if post_processor is None else post_processor.categories
        self._began_with = list(old)
        sampled = list(self._sample.rows)
        kept = products_to_keep(old, new, self.replaces, sampled)
        told_apart = isinstance(getattr(trainer.datamodule, "train_data", None), MultiCategoryDataset)  # type: ignore[attr-defined]
        held = products_to_hold(old, new, self.replaces, sampled) if told_apart else []
        self._hold(trainer, pl_module, kept or held)
        if kept and post_processor is not None:
            # "" drops what is known of a replaced product.
            network_of(pl_module).rearrange([name if name in kept else "" for name in old], sorted({*kept, *new}))
            post_processor.rearrange(kept, sorted({*kept, *new}))

    def _hold(self, trainer: pl.Trainer, pl_module: pl.LightningModule, held: list[str]) -> None:
        """Preserve products as the current head represents them, and exclude their images from training."""
        self.held = held
        self.kept = [name for name in held if name not in products_of(trainer)]
        self._old.keep(network_of(pl_module).head if held else None)
        post_processor = per_category_or_none(pl_module.post_processor)
        if post_processor is not None:
            post_processor.kept = self.kept
        if len(self.kept) < len(held):
            datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
            self._images = datamodule.train_data
            datamodule.train_data = self._images.without(held)
            pl_module.print(
                f"Training uses only images of {', '.join(datamodule.train_data.categories)}. It preserves "
                f"{', '.join(held)} by replaying their stored features through the old model. "
                "If images of one of these have changed, name it in replaces."
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the datamodule's full training data."""
        if self._images is not None:
            trainer.datamodule.train_data, self._images = self._images, None  # type: ignore[attr-defined]

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the datamodule's full training data."""
        self.teardown(trainer, pl_module, "fit")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the old products and the old head, for a training that resumes."""
        checkpoint[HELD_PRODUCTS_KEY] = self.held
        checkpoint[OLD_HEAD_KEY] = None if self._old.head is None else self._old.head.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Load the old products and the old head; if an early checkpoint has no old head, its current head is used.

        Raises:
            CheckpointConfigurationError: If there is no sample of a product, the weights do not fit the head, or the
                data name other products than those that the interrupted training learns.
        """
        if trainer.state.fn != "fit":
            return
        with restoring(f"{HELD_PRODUCTS_KEY!r}"):
            held = list(checkpoint.get(HELD_PRODUCTS_KEY, ()))
            if not set(held) <= self._sample.rows.keys():
                raise ValueError(f"there are no features of {held}")
            self._hold(trainer, pl_module, held)
        self._check_same_products(trainer, per_category_or_none(pl_module.post_processor))
        with restoring(f"{OLD_HEAD_KEY!r}"):
            stored = checkpoint.get(OLD_HEAD_KEY)
            if stored is not None and self._old.head is not None:
                check_weights(self._old.head.state_dict(), stored)
                self._old.head.load_state_dict(stored)

    def _check_same_products(self, trainer: pl.Trainer, thresholds: PerCategoryPostProcessor | None) -> None:
        """Refuse to resume on data that name other products than those that the checkpoint's training learns."""
        given = products_of(trainer)
        if thresholds is None or not given or set(thresholds.categories) == {*given, *self.held}:
            return
        learns = ", ".join(name for name in thresholds.categories if name not in self.kept)
        raise CheckpointConfigurationError(
            f"its training {f'learns {learns}' if learns else 'does not tell products apart'}, and the data contain "
            f"{', '.join(given)}: resume with the same products, or start a new training that extends this checkpoint."
        )

    # ------------------------------------------------------------------ replaying

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: object) -> None:
        """Freeze the batch statistics that the old head has learnt."""
        if self.held:
            freeze_batch_norm(network_of(pl_module).head)

    def draw(self, backbone: FrozenBackbone, beside: int) -> Tensor:
        """Draw features ``(B, C, h, w)`` of old products for a training step on ``beside`` new images, half as many."""
        return features_of(self._sample.draw(self.held, -(-beside // 2)), backbone)

    def preservation_loss(self, network: GradModel, drawn: Tensor) -> Tensor:
        """Return the term that preserves old products in the loss: the head's weighted drift on their features."""
        return DRIFT_WEIGHT * self._old.drift(network, drawn)

    def replayed(self) -> list[FeatureBatch]:
        """Return all sampled rows of old products."""
        return self._sample.batches(self.held)

    # ------------------------------------------------------------------ thresholds

    def note(self, batch: Any, maps: Sequence[Tensor]) -> None:  # noqa: ANN401  # anomalib's
        """Note the feature maps of those images of a validation batch that were chosen for the sample."""
        self._validation.note(batch, maps)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the sampled validation images again, and adapt the thresholds of old products to the new scores."""
        post_processor = per_category_or_none(pl_module.post_processor)
        if trainer.state.fn != "fit" or trainer.sanity_checking or post_processor is None:
            return
        self._sample.validation |= self._validation.take()
        former = {name: one.images for name, one in self._sample.validation.items()}
        for name, before in self._sample.validation.items():
            index = post_processor.named_index(name)
            self._sample.validation[name] = rescore(network_of(pl_module), before, index)
        lost = sorted(set(self.kept) - former.keys())
        thresholds = ModelThresholds.of(post_processor)
        for name in self.kept:
            if name not in lost:
                thresholds.follow(name, former[name], self._sample.validation[name].images)
                thresholds.apply_to(post_processor, name)
        if self.kept and not lost:
            old = [image for name in self.kept for image in former[name]]
            now = [image for name in self.kept for image in self._sample.validation[name].images]
            new = [image for name in thresholds.products if name not in self.kept for image in thresholds.images(name)]
            thresholds.follow(UNKNOWN, old, now, new)
            thresholds.apply_to(post_processor, UNKNOWN)
        if lost:
            logger.warning(
                "The thresholds of %s are unchanged, although scores have changed: the old checkpoint contains no "
                "features of validation images. Fit them on images: python -m anomalib_grad.thresholds fit.",
                ", ".join(lost),
            )

    # ------------------------------------------------------------------ sampling

    @torch.no_grad()
    def read_network(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample features of each product in the data, evenly from its images, up to the size limit.

        Validation images take at most half of the limit, training images the rest.
        """
        first, self._first = self._first, False
        if first:
            self._sample.keep(self.held)
        backbone = network_of(pl_module).backbone
        limit = cast("Settings", pl_module.settings).cache.sample_limit
        most = int(limit * 1e6 / (torch.float16.itemsize * backbone.row_length))
        if per_category_or_none(pl_module.post_processor) is None or not most:
            return
        found: dict[str, list[Tensor]] = {}
        with isolate_rng():
            chosen = self._validation.choose(trainer, most // 2) if first else 0  # validation images never change
            most -= max([chosen, *(len(one.images) for one in self._sample.validation.values())])
            for batch in training_batches(trainer, pl_module, spread_by_category(trainer, most)):
                rows = batch.features if isinstance(batch, FeatureBatch) else backbone.rows(batch.image)  # type: ignore[arg-type]
                for name, row in zip(getattr(batch, "category", None) or (), rows.half().cpu(), strict=False):
                    found.setdefault(name, []).append(row)
        for name, own in found.items():
            joined = torch.stack(own)
            if joined.isfinite().all():
                self._sample.rows[name] = joined
            else:
                logger.warning(
                    "Features of %r overflow float16 and are not stored: no later training can extend from them.", name
                )


def products_of(trainer: pl.Trainer) -> list[str]:
    """Return the names of the products in a trainer's data; empty if the data name none."""
    return list(getattr(getattr(trainer, "datamodule", None), "categories", ()))
