# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD as an anomalib model ("Grid-Based Continuous Normal Representation for Anomaly Detection", arXiv 2402.18293)."""

from collections.abc import Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import IO, Any, cast

import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Batch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from .backbone.tiling import describe, rebuild
from .categories.features import CategoryFeatures
from .categories.ignoring import FollowIgnoreMasks
from .categories.mixin import CategoryMixin
from .data.anomalib_data import LeaveOutHidden, NameMissingSplit
from .data.ignoring import of_the_rest
from .data.pre_processor import ConfigurePreProcessor, GradPreProcessor
from .data.unreadable_images import NameUnreadableImages
from .deploy.export import CategoryExportMixin
from .feature_cache import FeatureBatch, FeatureCaching
from .files.checkpoint_files import WholeCheckpoints, check_before_reading, on_this_machine
from .files.configuration import CheckpointConfigurationError, check_configuration, check_weights
from .files.faults import CONFIGURATION, MODEL
from .files.restoring import restoring
from .files.unreadable_checkpoints import CheckpointFileError, NameUnreadableCheckpoint, describe_failure
from .recipes import DEFAULT_RECIPE, PUBLISHED, build_network, find_recipe, naming_recipe
from .report.heatmaps import Heatmaps
from .settings import GROUPS, CacheSettings, MapSettings, MethodSettings, Settings, TrainingSettings, filled, group_of
from .settings.stored import HYPER_PARAMETERS, grouped, stored_arguments
from .thresholds.post_processor import PerCategoryPostProcessor
from .thresholds.raw_scores import RankRawScores
from .torch_model import GradModel
from .training.divergence import StopDiverged
from .training.extension import Extending
from .training.feature_sample import FeatureSample
from .training.learning import LearnFromFeatures
from .training.length import TrainingLengthMixin
from .training.optimisation import OptimisationMixin
from .training.precision import TrainingPrecisionMixin
from .training.run_end import SayHowToGoOn
from .training.validation import ValidateAtEnd

NOT_GIVEN = Settings()
RANDOM_STATE = "grad_random_state"
SAMPLE = "grad_feature_sample"
POST = "post_processor."
"""Names of thresholds begin so."""


class Grad(  # type: ignore[misc]  # to_onnx: as in anomalib
    TrainingLengthMixin, TrainingPrecisionMixin, OptimisationMixin, CategoryMixin, CategoryExportMixin, AnomalibModule
):
    """Grid-based continuous normal representation: one model for one or many product categories.

    A frozen backbone gives features; two small coordinate networks look up a learned, continuous representation of
    what is normal; what differs from it is the anomaly. The default recipe is the authors' (CRAD, ECCV 2024).

    Args:
        recipe: Name of the settings to start from (``recipes.py``): ``crad``, ``crad_s``, ``grad``, ``fast``, ``plus``.
            What is given besides wins over them.
        backbone: timm model name; ``None`` takes the recipe's, as of all that follow up to ``cache``.
        layers: Names of the backbone's feature maps; ``"both"`` takes those at strides 8 and 16, ``"coarsest"`` the
            latter alone.
        pre_trained: ``True`` takes timm's weights, a path reads them from a local safetensors or pth file, ``False``
            draws random ones. They are read when first needed, never when a checkpoint brings them.
        image_size: Height and width to which images are resized, in pixels.
        fusion: ``residual`` (GRAD, arXiv v1), ``mobile`` (CRAD) or ``small`` (CRAD-S).
        method: Constants of the method, as :class:`~anomalib_grad.settings.MethodSettings` or a dictionary.
        training: Constants of training, as :class:`~anomalib_grad.settings.TrainingSettings` or a dictionary.
        map: Constants of the anomaly map, as :class:`~anomalib_grad.settings.MapSettings` or a dictionary.
        cache: Constants of the feature cache, as :class:`~anomalib_grad.feature_cache.CacheSettings` or a dictionary.
        feature_cache: Keep the backbone's features of the training images, which never change without augmentation:
            in ``"memory"``, on ``"disk"``, or ``"auto"``, wherever there is room if training sees images twice.
            ``False`` computes them in every epoch. Augmented training images are never cached.
        extends: Checkpoint of an old model from which training starts: its settings, weights and statistics. The data
            hold all of its products and new ones, or new ones only (``training/extension.py``).
        replaces: Names of the old model's products that those of the data take the place of.
        false_alarm_rate: Share of normal images that may be called anomalous, in (0, 1): thresholds are set by normal
            validation images alone. ``None`` takes the thresholds of best F1 on normal and anomalous ones.
        category: Name of the only category in front of the camera, for test, prediction and export with a model of
            many: all images are judged by its threshold. ``None`` lets the model recognise the category.
        pre_processor: anomalib pre-processor; ``True`` resizes and normalises as the backbone expects.
        post_processor: anomalib post-processor; ``True`` fits thresholds per category where data have categories.
        evaluator: anomalib evaluator.
        visualizer: anomalib visualiser.

    Attributes:
        recipe: Name of the recipe.
        settings: All settings, those of the recipe filled in; with a checkpoint those that it brings.

    Raises:
        ValueError: If an argument is out of range, or there is no such recipe; the message says what is possible.

    Example:
        >>> from anomalib.data import MVTecAD
        >>> from anomalib.engine import Engine
        >>> from anomalib_grad import Grad
        >>> model = Grad(recipe="plus", backbone="mobilenetv2_100", training={"steps": 200})
        >>> Engine().train(model, datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP
    """

    def __init__(  # what users set, and anomalib's own
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
        replaces: Sequence[str] | None = None,
        false_alarm_rate: float | None = None,
        category: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        given = Settings.of(
            {
                "backbone": backbone,
                "layers": layers,
                "image_size": image_size,
                "fusion": fusion,
                "method": method,
                "training": training,
                "map": map,
                "cache": cache,
            }
        )
        settings = given.over(find_recipe(recipe).settings)
        with naming_recipe(recipe):
            model = build_network(settings, pre_trained)
        if pre_processor is True:
            pre_processor = GradPreProcessor.from_statistics(
                model.backbone.image_size, model.backbone.mean, model.backbone.std
            )
        if post_processor is True:
            post_processor = PerCategoryPostProcessor(false_alarm_rate=false_alarm_rate)
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.model: GradModel = model
        self.recipe = recipe
        self.feature_caching = FeatureCaching(feature_cache, settings.cache)
        self._given = given
        self._pre_trained = pre_trained
        self._take(settings)
        self._category_features = CategoryFeatures()
        self._sample = FeatureSample()
        self._extending = Extending(extends, replaces or (), self._sample)
        self._random_state: Tensor | None = None
        if category is not None:
            self.name_category(category)

    def _take(self, settings: Settings) -> None:
        """Train and cache by some settings, and have checkpoints hold them as plain data."""
        self.settings = settings
        self.set_training(settings.training)
        self.feature_caching.settings = settings.cache
        self.save_hyperparameters({"recipe": self.recipe, **settings.plain()})

    # ------------------------------------------------------------------ anomalib's interface

    configure_pre_processor = ConfigurePreProcessor()

    @property
    def learning_type(self) -> LearningType:
        """Grad learns from normal images only."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments that would override the user's: there are none."""
        return {}

    def configure_post_processor(self) -> PostProcessor:
        """Thresholds per category where the data have categories, anomalib's own where they have none."""
        return PerCategoryPostProcessor()

    @classmethod
    def configure_visualizer(cls) -> Heatmaps:
        """Result images of which none overwrites another, and for the lack of which no figure is lost."""
        return Heatmaps()

    def configure_callbacks(self) -> list[Callback]:
        """Callbacks of anomalib, the feature cache, whole checkpoints of finite weights, errors that name a file."""
        callbacks = cast("Sequence[Callback]", super().configure_callbacks())
        naming = [NameMissingSplit(), NameUnreadableImages(), NameUnreadableCheckpoint(), SayHowToGoOn()]
        learning = LearnFromFeatures(
            lambda: self.model, self._features, lambda: self.categories, self._extending.replayed
        )
        ignoring = FollowIgnoreMasks(lambda: self.model, lambda: self.categories)
        own = [
            self.feature_caching,
            self._extending,
            ignoring,
            learning,
            ValidateAtEnd(),
            StopDiverged(),
            WholeCheckpoints(),
            RankRawScores(),
        ]
        # Hidden files are left out before the visualiser names a result for each image.
        return [LeaveOutHidden(), *callbacks, *own, *naming]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path | IO[bytes], *args: Any, **kwargs: Any) -> "Grad":  # noqa: ANN401
        """Load a model with its settings; arguments and result are anomalib's, and those given win.

        Raises:
            CheckpointFileError: If the file is damaged, no checkpoint, claims more than it holds, or wants code to run.
            FileNotFoundError: If it is not there.
            TypeError: If an argument is none of Grad's; Lightning would pass over it.
        """
        expected = {**signature(super().load_from_checkpoint).parameters, **signature(cls).parameters}
        unknown = next((name for name in kwargs if name not in expected), None)
        if unknown is not None and not any(
            part.kind is part.VAR_KEYWORD for part in signature(cls).parameters.values()
        ):
            raise TypeError(f"{cls.__name__} takes no argument {unknown!r}; constants stand in {', '.join(GROUPS)}.")
        with on_this_machine(checkpoint_path) as path:
            check_before_reading(path, cls.checkpoint_safe_globals(), name=checkpoint_path)
            try:
                arguments = stored_arguments(path, cls.checkpoint_safe_globals())
                for name in GROUPS.keys() & kwargs.keys():
                    kwargs[name] = filled(group_of(name, kwargs[name]), group_of(name, arguments.get(name)))
                return cast("Grad", super().load_from_checkpoint(path, *args, **arguments | kwargs))
            except Exception as error:
                failure = describe_failure(path, error)
                if failure is None:
                    raise
                raise CheckpointFileError(failure) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the configuration that the weights belong to, and where the random numbers stand."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CONFIGURATION] = {
            **self.model.configuration,
            "mse_threshold": self.model.head.mse_threshold.item(),
            "tiling": describe(self.model.tiler),
        }
        checkpoint[RANDOM_STATE] = torch.get_rng_state()
        checkpoint[SAMPLE] = dict(self._sample.rows)
        self._leave_out_copies(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take settings and weights from the checkpoint, the backbone's among them.

        Raises:
            CheckpointConfigurationError: If the user gave other settings than the checkpoint's, it is not of Grad, or
                its weights were changed.
        """
        self._adopt_settings(checkpoint)
        configuration = dict(self.model.configuration)
        if isinstance(self._given.method.mse_threshold, int | float):  # asked for, not the default or an estimate
            configuration["mse_threshold"] = self.model.head.mse_threshold.item()
        if self.model.tiler is not None:
            configuration["tiling"] = describe(self.model.tiler)
        self._leave_out_copies(checkpoint)
        check_configuration(configuration, checkpoint.get(CONFIGURATION))
        self.model.make_room(checkpoint["state_dict"], MODEL)
        check_weights(self.model.state_dict(prefix=MODEL), checkpoint["state_dict"])
        with restoring("'tiling'"):
            self.model.tiler = rebuild(checkpoint[CONFIGURATION].get("tiling", configuration.get("tiling")))
        with restoring("pre-processor or post-processor"):
            super().on_load_checkpoint(checkpoint)
        self._resize_data()
        self.make_room(checkpoint["state_dict"], self.model.backbone.channels)
        weights = checkpoint["state_dict"]
        kept = {name: row for name, row in self.state_dict().items() if name in weights or name.startswith(POST)}
        check_weights(kept, weights)
        self.model.backbone.mark_weights_ready()
        self._random_state = checkpoint.get(RANDOM_STATE)
        with restoring(f"{SAMPLE!r}"):
            self._sample.load(checkpoint.get(SAMPLE), self.model.backbone.row_length)

    def _adopt_settings(self, checkpoint: dict[str, Any]) -> None:
        """Become a model of the checkpoint's settings in all that the user did not give, so that nothing is repeated.

        anomalib builds the model from its command line before it opens the checkpoint.
        """
        stored = grouped(checkpoint.get(HYPER_PARAMETERS) or {})
        if not stored or CONFIGURATION not in checkpoint:
            return
        with restoring(f"{HYPER_PARAMETERS!r}"):
            settings = self._given.over(Settings.of(stored)).over(PUBLISHED)
            if settings == self.settings:
                return
            recipe = find_recipe(stored["recipe"]).name
            if self.recipe not in {DEFAULT_RECIPE, recipe}:
                raise CheckpointConfigurationError(
                    f"the checkpoint was trained by recipe {recipe!r}, not {self.recipe!r}: leave the recipe out, the "
                    f"checkpoint brings all settings."
                )
            network = build_network(settings, self._pre_trained)
            network.tiler = self.model.tiler
            self.model = network.to(self.device)
            self.recipe = recipe
            self._take(settings)

    def _resize_data(self) -> None:
        """Have anomalib's datamodule read images at the size that the checkpoint brought; it was set up before."""
        datamodule = getattr(self._trainer, "datamodule", None)
        if isinstance(datamodule, AnomalibDataModule):
            datamodule._update_augmentations()

    def _leave_out_copies(self, checkpoint: dict[str, Any]) -> None:
        """Take from a checkpoint what it holds twice.

        anomalib's components are callbacks as well as modules, and Lightning writes and reads the state of both: the
        second copy would win, unseen by whoever looks at the weights.
        """
        components = {module.state_key for module in self.children() if isinstance(module, Callback)}
        states = checkpoint.get("callbacks") or {}
        checkpoint["callbacks"] = {name: state for name, state in states.items() if name not in components}

    # ------------------------------------------------------------------ inference

    def forward(self, batch: Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:  # noqa: ANN401  # anomalib's
        """Predict on images of any size, as an exported model does, without gradients: those are ``model``'s.

        Args:
            batch: RGB images in [0, 1], shape ``(B, 3, H, W)``.
            *args: Unused.
            **kwargs: Unused.

        Returns:
            anomalib's InferenceBatch, post-processed; with the recognised categories where there are any.
        """
        del args, kwargs
        with nullcontext() if self._exporting else torch.no_grad():  # without, the exporter keeps the modules' names
            images = self.pre_processor(batch) if self.pre_processor else batch
            features = self.model.backbone(images)
            category = self.category_index(features)
            return self.post_process(self.model.predict(features, category), category)

    def _predict(self, batch: Batch) -> Batch:
        features = self.model.backbone(batch.image)
        recognised = self.category_index(features)
        index = self.judged_index(batch, recognised)
        batch.update(**self.model.predict(features, index)._asdict())
        if self.model.ignored is not None:
            batch.update(**of_the_rest(batch, self.model.ignored.pixels(index)))
        self.name_categories(batch, recognised)
        return batch

    def ignored_pixels(self, batch: Batch) -> Tensor | None:
        """Pixels ``(B, H, W)`` or ``(1, H, W)`` that were not judged in a batch; ``None`` if nothing is ignored."""
        if self.model.ignored is None:
            return None
        return self.model.ignored.pixels(None if self.per_category is None else self.per_category.category_index(batch))

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:  # type: ignore[override]  # noqa: ANN401
        """Add predictions to a validation batch."""
        del args, kwargs
        return self._predict(batch)

    def test_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:  # type: ignore[override]  # noqa: ANN401
        """Add predictions to a test batch, with the category that the model takes each image for."""
        del args, kwargs
        return self._predict(batch)

    def predict_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:  # type: ignore[override]  # noqa: ANN401
        """Add predictions to a batch, with the category that the model takes each image for."""
        del args, kwargs
        return self._predict(batch)

    # ------------------------------------------------------------------ training

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Train on a batch of images, or of features from the cache (method section 7)."""
        del args, kwargs
        features = self._features(batch)
        self.remember_features(features, batch)
        replayed = self._extending.replay(len(features))
        if replayed is not None:
            features = torch.cat([features, self._features(self.trainer.strategy.batch_to_device(replayed))])
        with self.step_precision():
            loss = self.training_loss(self.model.head_input(features))
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(features))
        return loss

    def on_fit_start(self) -> None:
        """Read the backbone's weights before anything else: a machine that cannot have them says so at once.

        A resumed fit draws the random numbers that the interrupted one would have drawn; this has to be settled before
        the first batch is shuffled.
        """
        super().on_fit_start()
        self.model.backbone.ensure_weights()
        self.say_precision()
        self.settle_length()
        if self.trainer.is_global_zero:  # what processes remember is joined
            for batch in self._extending.replayed():
                self.remember_features(self._features(self.trainer.strategy.batch_to_device(batch)), batch)  # type: ignore[arg-type]
        if self.resumed and self._random_state is not None:
            with restoring(f"{RANDOM_STATE!r}"):
                torch.set_rng_state(self._random_state.cpu())

    def _features(self, batch: Batch | FeatureBatch) -> Tensor:
        """Features ``(B, C, h, w)`` of a training batch, computed or from the cache."""
        backbone = self.model.backbone
        if isinstance(batch, FeatureBatch):
            return backbone.join(backbone.unflatten(batch.features.to(torch.get_default_dtype())))
        return backbone(batch.image)
