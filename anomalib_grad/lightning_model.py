# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""GRAD as an anomalib model ("Grid-Based Continuous Normal Representation for Anomaly Detection", arXiv 2402.18293)."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, cast

import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .backbone import DEFAULT_BACKBONE, check_image_size
from .calibration import AUTO_IMAGES, estimate_mse_threshold, resolve_mse_threshold
from .categories import CategoryMixin
from .category_features import CategoryFeatures
from .divergence import StopDiverged
from .evaluation.post_processor import PerCategoryPostProcessor
from .export import CategoryExportMixin
from .feature_cache import CacheSettings, FeatureBatch, FeatureCaching, batches_of
from .heatmaps import Heatmaps
from .optimisation import OptimisationMixin
from .pre_processor import ConfigurePreProcessor, GradPreProcessor
from .run_end import SayHowToGoOn
from .tiling import describe, rebuild
from .torch_model import GradModel
from .training_length import PUBLISHED_EPOCHS, PublishedLengthMixin
from .trust.checkpoint_files import WholeCheckpoints, check_before_reading, on_this_machine
from .trust.configuration import check_configuration, check_weights
from .trust.faults import CONFIGURATION, MODEL
from .trust.settings import restoring
from .trust.unreadable_checkpoints import CheckpointFileError, NameUnreadableCheckpoint, describe_failure
from .trust.unreadable_images import NameUnreadableImages

RANDOM_STATE = "grad_random_state"
POST = "post_processor."
"""Names of thresholds begin so."""


class Grad(  # type: ignore[misc]  # to_onnx: as in anomalib
    PublishedLengthMixin, OptimisationMixin, CategoryMixin, CategoryExportMixin, AnomalibModule
):
    """Grid-based continuous normal representation: one model for one or many product categories.

    A frozen backbone gives features; two small coordinate networks look up a learned, continuous representation of
    what is normal; what differs from it is the anomaly. Defaults are the authors' (CRAD, ECCV 2024).

    Args:
        backbone: timm model name. Default: the authors' EfficientNet-B4.
        layers: Names of the backbone's feature maps; ``None`` takes those at strides 8 and 16, ``"coarsest"`` the
            latter alone.
        pre_trained: ``True`` takes timm's weights, a path reads them from a local safetensors or pth file, ``False``
            draws random ones. They are read when first needed, never when a checkpoint brings them.
        image_size: Height and width to which images are resized, in pixels.
        faithful_padding: Pad EfficientNet-B4 as the authors' port does; no effect on other backbones.
        fusion: ``residual`` (GRAD, arXiv v1), ``mobile`` (CRAD) or ``small`` (CRAD-S).
        num_blocks: Number of fusion blocks; ``None`` takes the published one (7, 11, 11).
        hidden_channels: Hidden channels of a fusion bottleneck; ``None`` takes the published one (4C mobile, C small).
        local_resolution: Cells along each axis of the local grid, or one number an axis.
        local_dims: Dimensions of the local coordinates.
        global_resolution: Cells along each axis of the global grid, or one number an axis.
        global_dims: Dimensions of the global coordinates.
        jitter_std: Standard deviation of the local coordinates' noise in training, in units of [-1, 1].
        jitter_probability: Probability of that noise in a training step.
        indicator_weight: Weight of the indicator in the similarity.
        cosine_weight: Weight of the cosine in the similarity.
        mse_threshold: Threshold ``k`` of the indicator in squared feature units, or ``"auto"`` to take a share of the
            training features' mean square at the start of fit. Default: 10.0 for EfficientNet-B4, else ``"auto"``.
        feature_size: Height and width to which all feature maps are brought; ``None`` takes those of the finest. The
            head costs as much as it has cells, however large the image is.
        distance: What the anomaly map shows: the ``residual`` between features and their refinement (paper), the
            ``dissimilarity``, which leaves out how long the features are, or the ``cosine`` distance of each layer's
            features from what is normal.
        smoothing_window: Side of the average pooling that smooths the anomaly map, in pixels, odd.
        score_window: Side of the average pooling whose maximum is the image score, in pixels.
        score_share: Share of the anomaly map, its largest pixels, whose mean is the image score in the place of the
            maximum over ``score_window``, in (0, 1]; ``None`` is the paper's maximum.
        learning_rate: Learning rate of the networks.
        grid_learning_rate: Learning rate of the grids.
        weight_decay: Weight decay of AdamW on both.
        lr_schedule: ``"step"`` drops the learning rates as the authors do; ``"cosine"`` lowers them smoothly to 0 until
            training ends.
        lr_step: Epochs between two drops of ``"step"``.
        lr_gamma: Factor of a drop.
        warmup_steps: Training steps over which ``"cosine"`` raises the learning rates first.
        clip_norm: Gradient norm to clip to, unless the trainer's ``gradient_clip_val`` says otherwise; 0 does not clip.
        pasted_patches: Largest number of patches of other images' features that are pasted into those of a training
            image, which the model has to restore; 0 as in the paper.
        channel_dropout: Share of the features' channels that are zero at random in training and have to be restored,
            in [0, 1); 0 as in the paper.
        hard_mining: Weigh the loss of each cell by the root of its error; ``False`` as in the paper.
        max_epochs: Epochs of training if the trainer sets no limit; ``None`` takes the published 100 (residual) or 50.
        feature_cache: Keep the backbone's features of the training images, which never change without augmentation:
            in ``"memory"``, on ``"disk"``, or ``"auto"``, wherever there is room if training sees images twice.
            ``False`` computes them in every epoch. Augmented training images are never cached.
        feature_cache_dtype: ``float32``, or ``float16`` for half the size and features rounded to 3 digits.
        feature_cache_gib: Largest size of the cache in GiB; on disk of all caches in the folder, of which the least
            recently used are removed.
        feature_cache_dir: Folder of caches on disk; ``None`` takes ``~/.cache/anomalib_grad/features``.
        false_alarm_rate: Share of normal images that may be called anomalous, in (0, 1): thresholds are set by normal
            validation images alone. ``None`` takes the thresholds of best F1 on normal and anomalous ones.
        category: Name of the only category in front of the camera, for test, prediction and export with a model of
            many: all images are judged by its threshold. ``None`` lets the model recognise the category.
        pre_processor: anomalib pre-processor; ``True`` resizes and normalises as the backbone expects.
        post_processor: anomalib post-processor; ``True`` fits thresholds per category where data have categories.
        evaluator: anomalib evaluator.
        visualizer: anomalib visualiser.

    Raises:
        ValueError: If an argument is out of range; the message says what is possible.

    Example:
        >>> from anomalib.data import MVTecAD
        >>> from anomalib.engine import Engine
        >>> from anomalib_grad import Grad
        >>> engine = Engine(max_epochs=15)
        >>> engine.train(Grad(), datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0917  # one argument for each constant of the method
        self,
        backbone: str = DEFAULT_BACKBONE,
        layers: Sequence[str] | str | None = None,
        pre_trained: bool | str | Path = True,
        image_size: tuple[int, int] = (224, 224),
        faithful_padding: bool = True,
        fusion: str = "mobile",
        num_blocks: int | None = None,
        hidden_channels: int | None = None,
        local_resolution: int | list[int] = 8,
        local_dims: int = 2,
        global_resolution: int | list[int] = 4,
        global_dims: int = 2,
        jitter_std: float = 0.05,
        jitter_probability: float = 0.5,
        indicator_weight: float = 0.3,
        cosine_weight: float = 0.7,
        mse_threshold: float | str | None = None,
        feature_size: tuple[int, int] | None = None,
        distance: str = "residual",
        smoothing_window: int = 21,
        score_window: int = 32,
        score_share: float | None = None,
        learning_rate: float = 1e-3,
        grid_learning_rate: float = 0.1,
        weight_decay: float = 0.01,
        lr_schedule: str = "step",
        lr_step: int = 40,
        lr_gamma: float = 0.1,
        warmup_steps: int = 0,
        clip_norm: float = 0.1,
        pasted_patches: int = 0,
        channel_dropout: float = 0.0,
        hard_mining: bool = False,
        max_epochs: int | None = None,
        feature_cache: bool | str = "auto",
        feature_cache_dtype: str = "float32",
        feature_cache_gib: float = 8.0,
        feature_cache_dir: str | Path | None = None,
        false_alarm_rate: float | None = None,
        category: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        image_size = check_image_size(image_size)
        model = GradModel(
            backbone=backbone,
            layers=layers,
            pre_trained=pre_trained,
            image_size=image_size,
            faithful_padding=faithful_padding,
            fusion=fusion,
            num_blocks=num_blocks,
            hidden_channels=hidden_channels,
            local_resolution=local_resolution,
            local_dims=local_dims,
            global_resolution=global_resolution,
            global_dims=global_dims,
            jitter_std=jitter_std,
            jitter_probability=jitter_probability,
            indicator_weight=indicator_weight,
            cosine_weight=cosine_weight,
            mse_threshold=resolve_mse_threshold(mse_threshold, backbone),
            feature_size=feature_size,
            distance=distance,
            smoothing_window=smoothing_window,
            score_window=score_window,
            score_share=score_share,
        )
        if pre_processor is True:
            pre_processor = GradPreProcessor.from_statistics(image_size, model.backbone.mean, model.backbone.std)
        if post_processor is True:
            post_processor = PerCategoryPostProcessor(false_alarm_rate=false_alarm_rate)
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.model: GradModel = model
        self.feature_caching = FeatureCaching(
            CacheSettings(feature_cache, feature_cache_dtype, feature_cache_gib, feature_cache_dir).checked()
        )
        self._category_features = CategoryFeatures()
        self._random_state: Tensor | None = None
        if category is not None:
            self.name_category(category)
        self.set_training(
            learning_rate=learning_rate,
            grid_learning_rate=grid_learning_rate,
            weight_decay=weight_decay,
            lr_schedule=lr_schedule,
            lr_step=lr_step,
            lr_gamma=lr_gamma,
            warmup_steps=warmup_steps,
            clip_norm=clip_norm,
            pasted_patches=pasted_patches,
            channel_dropout=channel_dropout,
            hard_mining=hard_mining,
            max_epochs=PUBLISHED_EPOCHS[fusion] if max_epochs is None else max_epochs,
        )

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
        """Heatmaps of anomalib, for the lack of which no figure is lost."""
        return Heatmaps()

    def configure_callbacks(self) -> list[Callback]:
        """Callbacks of anomalib, the feature cache, whole checkpoints of finite weights, errors that name a file."""
        callbacks = cast("Sequence[Callback]", super().configure_callbacks())
        naming = [NameUnreadableImages(), NameUnreadableCheckpoint()]
        own = [self.feature_caching, StopDiverged(), WholeCheckpoints(), *naming, SayHowToGoOn()]
        return [*callbacks, *own]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path | IO[bytes], *args: Any, **kwargs: Any) -> "Grad":  # noqa: ANN401
        """Load a model with its configuration; arguments and result are anomalib's.

        ``feature_cache_dir`` is not taken from the checkpoint, which may come from another machine.

        Raises:
            CheckpointFileError: If the file is damaged, no checkpoint, claims more than it holds, or wants code to run.
            FileNotFoundError: If it is not there.
        """
        with on_this_machine(checkpoint_path) as path:
            check_before_reading(path, cls.checkpoint_safe_globals(), name=checkpoint_path)
            try:
                return cast("Grad", super().load_from_checkpoint(path, *args, **{"feature_cache_dir": None} | kwargs))
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
        self._leave_out_copies(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the weights from the checkpoint, the backbone's among them.

        Raises:
            CheckpointConfigurationError: If the checkpoint belongs to another configuration, is not of Grad, or its
                weights were changed.
        """
        configuration = dict(self.model.configuration)
        if isinstance(self.hparams.get("mse_threshold"), int | float):  # asked for, not the default or an estimate
            configuration["mse_threshold"] = self.model.head.mse_threshold.item()
        if self.model.tiler is not None:
            configuration["tiling"] = describe(self.model.tiler)
        self._leave_out_copies(checkpoint)
        check_configuration(configuration, checkpoint.get(CONFIGURATION))
        check_weights(self.model.state_dict(prefix=MODEL), checkpoint["state_dict"])
        with restoring("'tiling'"):
            self.model.tiler = rebuild(checkpoint[CONFIGURATION].get("tiling", configuration.get("tiling")))
        with restoring("pre-processor or post-processor"):
            super().on_load_checkpoint(checkpoint)
        self.make_room(checkpoint["state_dict"], self.model.backbone.channels)
        weights = checkpoint["state_dict"]
        kept = {name: row for name, row in self.state_dict().items() if name in weights or name.startswith(POST)}
        check_weights(kept, weights)
        self.model.backbone.mark_weights_ready()
        self._random_state = checkpoint.get(RANDOM_STATE)

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
            predictions = self.model.predict(features)
            return self.post_process(predictions, features)

    def _predict(self, batch: Batch) -> Batch:
        features = self.model.backbone(batch.image)
        batch.update(**self.model.predict(features)._asdict())
        self.name_categories(batch, features)
        return batch

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
        loss = self.training_loss(features)
        self.remember_features(features, batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(features))
        return loss

    def on_fit_start(self) -> None:
        """Read the backbone's weights before anything else: a machine that cannot have them says so at once.

        A resumed fit draws the random numbers that the interrupted one would have drawn; this has to be settled before
        the first batch is shuffled.
        """
        super().on_fit_start()
        self.model.backbone.ensure_weights()
        if self.resumed and self._random_state is not None:
            with restoring(f"{RANDOM_STATE!r}"):
                torch.set_rng_state(self._random_state.cpu())

    def on_train_start(self) -> None:
        """Estimate ``k`` where it is ``"auto"`` and no checkpoint brought it.

        Every process estimates from the same images, so all get the same ``k``.
        """
        threshold = self.model.head.mse_threshold
        if torch.isnan(threshold):
            with isolate_rng():
                threshold.copy_(estimate_mse_threshold(self._training_features()))
            self.print(f"mse_threshold (k) estimated from training features: {threshold.item():.4g}")

    def _features(self, batch: Batch | FeatureBatch) -> Tensor:
        """Features ``(B, C, h, w)`` of a training batch, computed or from the cache."""
        backbone = self.model.backbone
        if isinstance(batch, FeatureBatch):
            return backbone.join(backbone.unflatten(batch.features.to(torch.get_default_dtype())))
        return backbone(batch.image)

    def _training_features(self) -> Iterator[Tensor]:
        """Features of training images spread evenly over the data set."""
        loader: DataLoader = self.trainer.train_dataloader
        total = len(loader.dataset)  # type: ignore[arg-type]  # anomalib's data sets have a length
        spread = torch.linspace(0, total - 1, min(total, AUTO_IMAGES)).round().int().tolist()
        for batch in batches_of(loader, spread):
            on_device = self.trainer.strategy.batch_to_device(batch)
            if isinstance(self.pre_processor, PreProcessor):
                self.pre_processor.on_train_batch_start(self.trainer, self, on_device, 0)
            yield self._features(on_device)
