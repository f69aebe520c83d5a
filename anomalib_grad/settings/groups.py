# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a model: the groups that :class:`~anomalib_grad.Grad` takes, and how a recipe fills them in.

``None`` always means "not given": the recipe sets the value (``recipes.py``), or the model finds it by itself.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

SCHEDULES = ("step", "cosine")
PRECISIONS = ("auto", "trainer")
DTYPES = ("float32", "float16")
BOTH_LAYERS = "both"
"""Value of ``layers`` for the maps at strides 8 and 16, even if the recipe takes a single map."""

S = TypeVar("S")


def is_number(value: object, kind: type = Real) -> bool:
    """Tell whether a setting is a number, Python's or NumPy's, and not a bool."""
    return isinstance(value, kind) and not isinstance(value, bool)


_NOT_NEGATIVE = "at least 0 and finite", lambda value: is_number(value) and 0 <= value < math.inf


def _check(group: object, name: str, what: str, allowed: Callable[[Any], bool]) -> None:
    """Refuse a value that is out of range; ``name`` may begin with that of the group."""
    value = getattr(group, name.rpartition(".")[2])
    if value is not None and not allowed(value):
        raise ValueError(f"{name} must be {what}, got {value!r}.")


@dataclass(frozen=True)
class MethodSettings:
    """Constants of the method; the paper's, unless a recipe says otherwise.

    Args:
        num_blocks: Number of fusion blocks. Published: 7 (residual), 11 (mobile, small).
        hidden_channels: Hidden channels of a fusion bottleneck. Published: 4C (mobile), C (small).
        local_resolution: Cells of the local grid along every axis, or a list with one number per axis.
        local_dims: Dimensions of the local coordinates.
        global_resolution: Cells of the global grid along every axis, or a list with one number per axis.
        global_dims: Dimensions of the global coordinates.
        jitter_std: Standard deviation of the noise on local coordinates in training; coordinates lie in [-1, 1].
        jitter_probability: Probability of that noise in a training step.
        indicator_weight: Weight of the indicator in the similarity.
        cosine_weight: Weight of the cosine in the similarity.
        mse_threshold: Threshold ``k`` of the indicator in squared feature units. ``"auto"`` sets it at the start of
            fit, to a share of the training features' mean square. Default: 10.0 for EfficientNet-B4, else ``"auto"``.
        feature_size: Height and width to which all feature maps are resized; default: those of the finest map. The
            head's cost depends on this number of cells, not on the size of the image.
        whitening: Whiten the features before the head, so that channels of low variance count as much as those of high
            variance; ``False`` in the paper.
        faithful_padding: Pad EfficientNet-B4 as the authors' port does; no effect on other backbones.
    """

    num_blocks: int | None = None
    hidden_channels: int | None = None
    local_resolution: int | list[int] | None = None
    local_dims: int | None = None
    global_resolution: int | list[int] | None = None
    global_dims: int | None = None
    jitter_std: float | None = None
    jitter_probability: float | None = None
    indicator_weight: float | None = None
    cosine_weight: float | None = None
    mse_threshold: float | str | None = None
    feature_size: tuple[int, int] | None = None
    whitening: bool | None = None
    faithful_padding: bool | None = None


@dataclass(frozen=True)
class MapSettings:
    """How the anomaly map and the image score are computed from features.

    Args:
        distance: Distance shown by the map: the norm of the ``residual`` between features and their refinement (paper),
            or the ``cosine`` distance of each layer's features from their normal map.
        smoothing_window: Side of the average pooling that smooths the map, in pixels, odd.
        score_window: Side of the average pooling whose maximum is the image score, in pixels.
        score_share: Share of the map's pixels, in (0, 1], the largest ones, whose mean is the image score. It replaces
            the maximum over ``score_window``.
        scaled: Divide distances by a usual distance of their product, so that image scores of all products compare;
            ``False`` in the paper.
    """

    score_share: float | None = None
    scaled: bool | None = None
    distance: str | None = None
    smoothing_window: int | None = None
    score_window: int | None = None


@dataclass(frozen=True)
class TrainingSettings:
    """How the networks and grids are trained.

    Training lasts ``max_epochs``, or ``steps`` if given; the trainer's own limits win over both.

    Args:
        learning_rate: Learning rate of the networks.
        grid_learning_rate: Learning rate of the grids.
        weight_decay: Weight decay of AdamW on both.
        lr_schedule: ``"step"`` drops the learning rates as the authors do; ``"cosine"`` lowers them smoothly to 0 at
            the end of training.
        lr_step: Epochs between two drops of ``"step"``.
        lr_gamma: Factor of each drop.
        warmup_steps: Training steps over which ``"cosine"`` first raises the learning rates.
        clip_norm: Gradient norm to clip to, unless the trainer's ``gradient_clip_val`` is set; 0 turns clipping off.
        pasted_patches: Largest number of patches of other images' features to paste over those of a training image,
            which the model has to reconstruct; 0 in the paper.
        channel_dropout: Share of the features' channels, in [0, 1), to set to zero at random in training; the model has
            to reconstruct them. 0 in the paper.
        copies: Copies of each training image to train on as well, moved by up to 3 % of its sides; 0 in the paper. A
            feature cache stores each copy like another image.
        turned_below: Also turn the copies of a product with fewer training images than this, by quarter turns (half
            turns if images are not square); 0 in the paper. Set 0 where a part that lies turned is a defect.
        hard_mining: Weight the loss of each cell by the root of its error; ``False`` in the paper.
        max_epochs: Epochs of training.
        steps: Steps of training, instead of epochs; rounded to whole epochs.
        least_passes: Fewest epochs that ``steps`` may give, however many images there are.
        most_passes: Most epochs that a recipe's ``steps`` may give, however few images there are. Steps that you give
            are all trained.
        precision: ``"auto"`` computes training steps in bfloat16 if the machine has arithmetic for it and the trainer's
            precision was left at float32; ``"trainer"`` uses the trainer's precision.
        validate_every: Epochs between two validations. Default: one validation at the end of training, and one after
            each epoch if a callback stops or saves by a metric. Trainer arguments that ask for validation win, but the
            end of training is always validated.
    """

    learning_rate: float | None = None
    grid_learning_rate: float | None = None
    weight_decay: float | None = None
    lr_schedule: str | None = None
    lr_step: int | None = None
    lr_gamma: float | None = None
    warmup_steps: int | None = None
    clip_norm: float | None = None
    pasted_patches: int | None = None
    channel_dropout: float | None = None
    copies: int | None = None
    turned_below: int | None = None
    hard_mining: bool | None = None
    max_epochs: int | None = None
    steps: int | None = None
    least_passes: int | None = None
    most_passes: int | None = None
    precision: str | None = None
    validate_every: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range, naming the setting."""
        for name in ("learning_rate", "grid_learning_rate", "lr_gamma"):
            _check(self, name, "greater than 0 and finite", lambda value: is_number(value) and 0 < value < math.inf)
        for name in ("weight_decay", "warmup_steps", "clip_norm"):
            _check(self, name, *_NOT_NEGATIVE)
        for name in ("lr_step", "max_epochs", "steps", "least_passes", "most_passes", "validate_every"):
            _check(self, name, "a whole number of at least 1", lambda value: is_number(value, Integral) and value >= 1)
        for name in ("pasted_patches", "copies", "turned_below"):
            _check(self, name, "a whole number of at least 0", lambda value: is_number(value, Integral) and value >= 0)
        _check(self, "channel_dropout", "at least 0 and less than 1", lambda value: is_number(value) and 0 <= value < 1)
        _check(self, "hard_mining", "True or False", lambda value: isinstance(value, bool))
        _check(self, "lr_schedule", " or ".join(SCHEDULES), SCHEDULES.__contains__)
        _check(self, "precision", " or ".join(PRECISIONS), PRECISIONS.__contains__)


@dataclass(frozen=True)
class CacheSettings:
    """How backbone features are cached.

    Args:
        dtype: ``float32``, or ``float16`` for half the size, with features rounded to 3 digits.
        gib: Largest size of the cache in GiB. On disk it limits all caches in the folder together; the least recently
            used ones are removed.
        sample_mb: Largest size, in MB, of the features of each product that a checkpoint stores, so that ``extends``
            can do without the product's images; 0 stores none.
        folder: Folder of caches on disk; default: ``~/.cache/anomalib_grad/features``. A folder in a checkpoint is
            ignored.
    """

    dtype: str | None = None
    gib: float | None = None
    sample_mb: float | None = None
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range, naming the setting."""
        _check(self, "cache.dtype", " or ".join(DTYPES), DTYPES.__contains__)
        _check(self, "cache.sample_mb", *_NOT_NEGATIVE)
        _check(self, "cache.gib", "greater than 0", lambda value: is_number(value) and value > 0)

    @property
    def limit(self) -> float:
        """Largest size in GiB."""
        return 8.0 if self.gib is None else self.gib

    @property
    def sample_limit(self) -> float:
        """Largest size of a product's stored features in MB."""
        return 10.0 if self.sample_mb is None else self.sample_mb

    @property
    def resolved_folder(self) -> Path:
        """Folder of the caches on disk."""
        if self.folder is not None:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomalib_grad" / "features"


@dataclass(frozen=True)
class Settings:
    """Everything that a recipe may set, and that a checkpoint needs to build its model again.

    These are the arguments of :class:`~anomalib_grad.Grad` of the same names, described there.
    """

    backbone: str | None = None
    layers: Sequence[str] | str | None = None
    image_size: tuple[int, int] | None = None
    fusion: str | None = None
    method: MethodSettings = field(default_factory=MethodSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    map: MapSettings = field(default_factory=MapSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "Settings":
        """Take settings from constructor arguments, whose groups may be dictionaries; ignore other arguments.

        Raises:
            ValueError: If a group has an unknown name or a value out of range.
        """
        given: dict[str, Any] = {part.name: arguments.get(part.name) for part in fields(cls)}
        groups: dict[str, Any] = {name: group_of(name, given[name]) for name in GROUPS}
        return cls(**given | groups)

    def plain(self) -> dict[str, Any]:
        """Return the settings as nested dictionaries, for a checkpoint."""
        return asdict(self)

    def over(self, others: "Settings") -> "Settings":
        """Return these settings, with those of ``others`` where none are given."""
        return filled(self, others)


GROUPS: dict[str, type] = {
    "method": MethodSettings,
    "training": TrainingSettings,
    "map": MapSettings,
    "cache": CacheSettings,
}
"""Arguments of Grad that hold several settings; the command line shows them as ``--model.training.learning_rate``."""


def group_of(name: str, given: object) -> object:
    """Build a group of settings from the user's value: an object of its class, a dictionary, or ``None``.

    Raises:
        ValueError: If it is anything else, or names a setting that the group does not have.
    """
    kind = GROUPS[name]
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping | None):
        message = f"{name} must be a {kind.__name__} or a dictionary, got {given!r}."
        raise ValueError(message)  # noqa: TRY004  # the error of all arguments out of range
    known = [part.name for part in fields(kind)]
    unknown = [key for key in given or {} if key not in known]
    if unknown:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; its settings are {', '.join(known)}.")
    return kind(**given or {})


def filled(given: S, others: S) -> S:
    """Return ``given`` with ``others``, of the same class, wherever a setting is not given.

    A given length of training drops the length in ``others``, and a given ``score_window`` their ``score_share``.
    """
    if isinstance(given, TrainingSettings) and (given.max_epochs is not None or given.steps is not None):
        others = replace(cast("Any", others), max_epochs=None, steps=None, most_passes=None)
    if isinstance(given, MapSettings) and given.score_window is not None:
        others = replace(cast("Any", others), score_share=None)
    values: dict[str, Any] = {}
    for part in fields(cast("Any", given)):
        own, other = getattr(given, part.name), getattr(others, part.name)
        values[part.name] = filled(own, other) if is_dataclass(own) else other if own is None else own
    return type(given)(**values)
