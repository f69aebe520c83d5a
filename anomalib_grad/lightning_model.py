# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD as an anomalib model ("Grid-Based Continuous Normal Representation for Anomaly Detection", arXiv 2402.18293)."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import lightning.pytorch as pl
import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from .categories.follow_ignore_masks import FollowIgnoreMasks
from .checkpoint.save_and_load import add_configuration, drop_copies, fit_network, fit_thresholds, load, settings_in
from .data.anomalib_data import LeaveOutHidden, NameMissingImages
from .data.copies import TrainOnCopies
from .data.pre_processor import ConfigurePreProcessor, GradPreProcessor, resize_as_now
from .data.unreadable import NameUnreadableImages
from .deploy.export import CategoryExportMixin, ExplainedInferenceBatch
from .evaluation.metrics import LeaveOutMetricsOfLabels, RankRawScores
from .feature_cache import FeatureCaching, features_of
from .files.checkpoint_reading import NameUnreadableCheckpoint
from .files.configuration import restoring
from .files.whole_checkpoints import WholeCheckpoints
from .recipes import DEFAULT_RECIPE, build_network, find_recipe
from .report.visualizer import DistinctImageVisualizer, with_distinct_names
from .settings import CacheSettings, MapSettings, MethodSettings, Settings, TrainingSettings
from .thresholds.post_processor import (
    PerCategoryPostProcessor,
    ignored_pixels,
    judge,
    per_category_or_none,
    score_batch,
    set_only_category,
)
from .torch_model import GradModel, in_eval_mode
from .training.extension import Extending
from .training.feature_sample import SAMPLE_KEY, VALIDATION_KEY, FeatureSample, to_checkpoint
from .training.feature_statistics import LearnFromFeatures
from .training.learn_to_recognise import FEATURES, LearnToRecognise
from .training.length import OwnLength, training_steps
from .training.loss import training_loss
from .training.optimisation import build_optimizer
from .training.precision import takes_bfloat16
from .training.run_end import ExplainHowToResume
from .training.run_start import PrepareTraining
from .training.unusable_weights import RefuseUntrained, StopDiverged
from .training.validation import ValidateAtEnd

NOT_GIVEN = Settings()


class Grad(CategoryExportMixin, AnomalibModule):  # type: ignore[misc]  # to_onnx: as in anomalib
    """Grid-based continuous normal representation: one model for one or many product categories.

    A frozen backbone extracts features. Two small coordinate networks look up a learned, continuous representation of
    normal features; features that differ from it are anomalous. The default recipe is the authors' (CRAD, ECCV 2024).

    Args:
        recipe: Name of the settings to start from (``recipes.py``): ``crad``, ``crad_s``, ``grad``, ``fast``, ``plus``.
            The other arguments override them.
        backbone: timm model name; ``None`` takes the recipe's, as in the other arguments up to ``cache``.
        layers: Names of the backbone's feature maps; ``"both"`` takes those at strides 8 and 16, ``"coarsest"`` only
            the latter, ``"coarsest_stages"`` those of the last two stages of that stride, ``"middle"`` the middle one
            of all maps, which in a plain transformer is at half of its depth.
        pre_trained: ``True`` takes timm's weights, a path reads them from a local safetensors or pth file, ``False``
            draws random ones. They are read when first needed, and never if a checkpoint brings them.
        image_size: Height and width to which images are resized, in pixels.
        fusion: ``residual`` (GRAD, arXiv v1), ``mobile`` (CRAD) or ``small`` (CRAD-S).
        method: Constants of the method, as :class:`~anomalib_grad.settings.MethodSettings` or a dictionary.
        training: Constants of training, as :class:`~anomalib_grad.settings.TrainingSettings` or a dictionary.
        map: Constants of the anomaly map, as :class:`~anomalib_grad.settings.MapSettings` or a dictionary.
        cache: Constants of the feature cache, as :class:`~anomalib_grad.settings.CacheSettings` or a dictionary.
        feature_cache: Where to cache the backbone's features of the training images, which never change without
            augmentation: ``"memory"``, ``"disk"``, or ``"auto"``: wherever there is room, if training sees images more
            than once. ``False`` computes them in every epoch. Features of augmented images are never cached.
        extends: Checkpoint of an old model, whose settings, weights and statistics training starts from. The data hold
            all of its products and new ones, or new ones only; training reads images of the new ones alone
            (``training/extension.py``).
        replaces: Names of the old model's products that those in the data replace; only with ``extends``.
        false_alarm_rate: Share of normal images that may be called anomalous, in (0, 1): thresholds are fitted on
            normal validation images alone. ``None`` takes the thresholds of best F1 on normal and anomalous ones.
        category: Name of the only category in front of the camera, for test, prediction and export with a model of
            many: its threshold judges all images. ``None`` lets the model recognise the category.
        pre_processor: anomalib pre-processor; ``True`` resizes and normalises as the backbone expects.
        post_processor: anomalib post-processor; ``True`` fits thresholds per category where data have categories.
        evaluator: anomalib evaluator.
        visualizer: anomalib visualiser.

    Attributes:
        recipe: Name of the recipe.
        settings: All settings, completed by the recipe, or by the checkpoint once one is loaded.

    Raises:
        ValueError: If an argument is out of range, or there is no such recipe; the message says what is possible.

    Example:
        >>> from anomalib.data import MVTecAD
        >>> from anomalib.engine import Engine
        >>> from anomalib_grad import Grad
        >>> model = Grad(recipe="plus", backbone="mobilenetv2_100", training={"steps": 200})
        >>> Engine().train(model, datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP
    """

    def __init__(  # settings of this package, then anomalib's
        self,
        recipe: str = DEFAULT_RECIPE,
        backbone: str | None = None,
        layers: Sequence[str] | str | None = None,
        pre_trained: bool | str | Path = True,
        image_size: tuple[int, int] | None = None,
        fusion: str | None = None,
        method: MethodSettings = NOT_GIVEN.method,
        training: TrainingSettings = NOT_GIVEN.training,
        map: MapSettings = NOT_GIVEN.map,  # noqa: A002  # --model.map
        cache: CacheSettings = NOT_GIVEN.cache,
        feature_cache: bool | str = "auto",
        extends: str | Path | None = None,
        replaces: Sequence[str] | str | None = None,
        false_alarm_rate: float | None = None,
        category: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        shape = {"backbone": backbone, "layers": layers, "image_size": image_size, "fusion": fusion}
        self._given = Settings.of(shape | {"method": method, "training": training, "map": map, "cache": cache})
        chosen = find_recipe(recipe)
        try:
            settings = self._given.over(chosen.settings_on(backbone))
            model = build_network(settings, pre_trained)
        except ValueError as error:
            if recipe != DEFAULT_RECIPE:
                error.args = (f"recipe {recipe!r}: {error}",)
            raise
        if pre_processor is True:
            pre_processor = GradPreProcessor.from_statistics(
                model.backbone.image_size, model.backbone.mean, model.backbone.std
            )
        if post_processor is True:
            post_processor = PerCategoryPostProcessor(false_alarm_rate=false_alarm_rate)
        super().__init__(pre_processor, post_processor, evaluator, with_distinct_names(visualizer))
        self._pre_trained = pre_trained
        self._in_bfloat16 = False
        self.own_length = OwnLength()
        self.feature_caching = FeatureCaching(feature_cache)
        self._sample = FeatureSample()
        self._extending = Extending(extends, replaces or (), self._sample)
        self._take(model, recipe, settings)
        if category is not None:
            set_only_category(self.post_processor, category)

    def _take(self, network: GradModel, recipe: str, settings: Settings) -> None:
        """Adopt a network and its settings: training and cache follow them, checkpoints hold them as plain data."""
        self.model: GradModel = network
        self.recipe, self.settings = recipe, settings
        self.save_hyperparameters({"recipe": recipe, **settings.plain()})

    learning_type = LearningType.ONE_CLASS  # from normal images only
    trainer_arguments: ClassVar[dict[str, Any]] = {}  # empty, as any would override the user's
    _feature_source = None  # older torch exports refer to it
    configure_pre_processor = ConfigurePreProcessor()
    configure_post_processor = PerCategoryPostProcessor  # thresholds per category where the data have categories
    configure_visualizer = DistinctImageVisualizer

    @property
    def per_category(self) -> PerCategoryPostProcessor | None:
        """The post-processor, if it keeps categories."""
        return per_category_or_none(self.post_processor)

    @property
    def categories(self) -> list[str]:
        """Names of the categories, in the order of their indices; empty if the post-processor keeps none."""
        return [] if self.per_category is None else self.per_category.categories

    # ------------------------------------------------------------------ train

    @AnomalibModule.trainer.setter  # type: ignore[attr-defined]
    def trainer(self, trainer: pl.Trainer | None) -> None:
        """Attach a trainer; one without a limit trains for the length in this model's settings."""
        if isinstance(trainer, pl.Trainer):
            self.own_length.begin(trainer, self.settings.training)
        AnomalibModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def configure_callbacks(self) -> list[Callback]:
        """Return anomalib's callbacks, and those for statistics beside the weights, whole files and clear errors."""
        extending = self._extending
        return [
            RefuseUntrained(),
            LeaveOutHidden(),  # before the visualiser names a result for each image
            *cast("Sequence[Callback]", super().configure_callbacks()),
            TrainOnCopies(),
            self.feature_caching,
            extending,
            FollowIgnoreMasks(),
            *(LearnFromFeatures(extending.replayed), LearnToRecognise(extending.replayed)),
            *(ValidateAtEnd(), StopDiverged(), WholeCheckpoints(), RankRawScores(), LeaveOutMetricsOfLabels()),
            *(NameMissingImages(), NameUnreadableImages(), NameUnreadableCheckpoint()),
            *(ExplainHowToResume(), PrepareTraining()),
        ]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with one learning rate for the networks and one for the grids (method section 7)."""
        return build_optimizer(self.model.head, self.settings.training, lambda: training_steps(self.trainer))

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients as the trainer was told, or else to the norm in this model's settings."""
        limit = self.settings.training.clip_norm if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm or "norm")

    def on_fit_start(self) -> None:
        """Decide whether this machine computes training steps in bfloat16."""
        self._in_bfloat16 = takes_bfloat16(str(self.settings.training.precision), self)

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Train on a batch of images, or of features from the cache (method section 7)."""
        features = features_of(batch, self.model.backbone)
        former = self._extending.draw(self.model.backbone, len(features)) if self._extending.held else None
        with torch.autocast(self.device.type, torch.bfloat16) if self._in_bfloat16 else nullcontext():
            output = self.model(features=features)
            loss = training_loss(*output, hard_mining=bool(self.settings.training.hard_mining))
            if former is not None:
                loss = loss + self._extending.preservation_loss(self.model, former)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(features))
        return {"loss": loss, FEATURES: features}

    # ------------------------------------------------------------------ predict

    def forward(self, batch: Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:  # noqa: ANN401  # anomalib's
        """Predict on images of any size, as an exported model does; for gradients call ``model``.

        Takes RGB images in [0, 1], shape ``(B, 3, H, W)``. Returns anomalib's InferenceBatch, post-processed, with the
        names of the categories whose thresholds judged the images, if there are any.
        """
        with torch.no_grad(), in_eval_mode(self.model):
            prediction, scored = judge(self.pre_processor, self.model, self.post_processor, batch)
        if scored.category is None or self.per_category is None:
            return prediction
        names = self.per_category.category_names(scored.category)
        return cast("InferenceBatch", ExplainedInferenceBatch(*prediction, names))  # type: ignore[arg-type]

    def predict_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:  # type: ignore[override]  # noqa: ANN401
        """Score a batch; the post-processor applies thresholds next."""
        return score_batch(self.model, self.post_processor, batch)

    test_step = predict_step  # type: ignore[assignment]

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:  # type: ignore[override]  # noqa: ANN401
        """Score a batch as in prediction, and add some of its features to the sample that checkpoints carry."""
        maps = self.model.backbone.feature_maps(cast("Tensor", batch.image))
        self._extending.note(batch, maps)
        return score_batch(self.model, self.post_processor, batch, self.model.backbone.join(maps))

    def ignored_pixels(self, batch: Batch) -> Tensor | None:
        """Return the pixels ``(B, H, W)`` or ``(1, H, W)`` ignored in a batch; ``None`` if nothing is ignored."""
        return ignored_pixels(self.model, self.post_processor, batch)

    # ------------------------------------------------------------------ save and load

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the network's configuration, and a sample of features for a training that extends this model."""
        super().on_save_checkpoint(checkpoint)
        add_configuration(checkpoint, self.model)
        checkpoint[SAMPLE_KEY], checkpoint[VALIDATION_KEY] = (
            dict(self._sample.rows),
            to_checkpoint(self._sample.validation),
        )
        drop_copies(checkpoint, self.children())

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path | IO[bytes], *args: Any, **kwargs: Any) -> "Grad":  # noqa: ANN401
        """Load a model with the settings in its checkpoint; arguments, which override them, and result are anomalib's.

        Raises:
            CheckpointFileError: If the file is damaged, no checkpoint, claims more than it holds, or would run code.
            FileNotFoundError: If there is no such file.
            TypeError: If Grad has no such argument; Lightning would ignore it.
        """
        return cast("Grad", load(cls, super().load_from_checkpoint, checkpoint_path, *args, **kwargs))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuild the model by a checkpoint's settings, except those the user gave: anomalib builds it beforehand.

        Raises:
            CheckpointConfigurationError: If the user's settings contradict the checkpoint's, it is not of Grad, or its
                weights were changed.
        """
        recipe, settings = settings_in(checkpoint, type(self), self._given, self.recipe) or (self.recipe, self.settings)
        if settings != self.settings:
            with restoring("settings"):
                network = build_network(settings, self._pre_trained)
            network.tiler = self.model.tiler
            self._take(network.to(self.device), recipe, settings)
        drop_copies(checkpoint, self.children())
        fit_network(self.model, self._given, checkpoint)
        with restoring("pre-processor or post-processor"):
            super().on_load_checkpoint(checkpoint)
        resize_as_now(self._trainer)
        fit_thresholds(self, checkpoint["state_dict"], self.per_category, self.model.backbone.channels)
        self._sample.load(checkpoint.get(SAMPLE_KEY), self.model.backbone.row_length, checkpoint.get(VALIDATION_KEY))
