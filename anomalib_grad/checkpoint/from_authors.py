# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Convert an authors' checkpoint to one of :class:`~anomalib_grad.Grad`."""

from pathlib import Path

import lightning.pytorch as pl
from torch import Tensor

from anomalib_grad.backbone.frozen import FrozenBackbone
from anomalib_grad.files.atomic import writing
from anomalib_grad.lightning_model import Grad
from anomalib_grad.settings import MethodSettings

from .authors_file import AuthorsCheckpointError, AuthorsFile, check_tensors, read_authors_file
from .authors_model import has_timm_names, head_state, noted_backbone, noted_image_size, noted_layers, recognise_head
from .keys import backbone_from_authors_key


def convert(
    source: str | Path,
    target: str | Path,
    backbone: str | None = None,
    image_size: tuple[int, int] | None = None,
    pre_trained: bool | str | Path = True,
) -> Grad:
    """Convert a checkpoint of the authors' trainer to one for ``Grad.load_from_checkpoint``.

    Thresholds and score ranges are unset in the result, as the authors' files have none: validate once to fit them.

    Args:
        source: The authors' ``.pth.tar`` file.
        target: Checkpoint to write, whole or not at all.
        backbone: timm model name, to replace the file's backbone or if that is incomplete.
        image_size: Height and width of the images in pixels; ``None`` takes the file's.
        pre_trained: Weights of ``backbone``: ``True`` (timm's), a local file, or ``False`` (random).

    Raises:
        AuthorsCheckpointError: If the file is not the authors', or does not fit the arguments.
        ValueError: If ``backbone`` is unknown or does not accept the image size.
        BackboneWeightsError: If the weights of ``backbone`` are not available.
        OSError: If ``target`` cannot be written.
    """
    with writing(target) as unfinished:
        model = _build(read_authors_file(source), backbone, image_size, pre_trained)
        save_model(model, unfinished)
    return model


def _build(
    file: AuthorsFile, backbone: str | None, image_size: tuple[int, int] | None, pre_trained: bool | str | Path
) -> Grad:
    name = backbone or noted_backbone(file)
    if name is None:
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} names no backbone that this package knows; name it with --backbone (timm's name)."
        )
    layers = noted_layers(file, name)
    size = image_size or noted_image_size(file, recognise_head(file)["feature_size"])
    network = FrozenBackbone(name, layers, pre_trained=False, image_size=size)
    inside = _inside_backbone(file, network) if backbone is None else None
    head = recognise_head(file, network.feature_size)
    state = head_state(file, head)
    channels, _ = head.pop("channels"), head.pop("feature_size")
    if channels != network.channels:
        raise AuthorsCheckpointError(
            f"the head in {str(file.path)!r} needs {channels} feature channels, but backbone {name!r} has "
            f"{network.channels}; name the backbone that it was trained with by --backbone."
        )

    model = Grad(
        backbone=name,
        layers=layers,
        pre_trained=pre_trained if inside is None else True,
        image_size=size,
        fusion=head.pop("fusion"),
        method=MethodSettings(**head),
    )
    model.model.head.load_state_dict(state)
    if inside is None:
        model.model.backbone.ensure_weights()
    else:
        model.model.backbone.network.load_state_dict(inside)
        model.model.backbone.mark_weights_ready()
    return model


def save_model(model: Grad, path: Path) -> None:
    """Write an anomalib checkpoint as the trainer does, without training."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)


def _inside_backbone(file: AuthorsFile, backbone: FrozenBackbone) -> dict[str, Tensor]:
    """Return a state dict for ``backbone`` from a file's tensors, without those behind its last feature map."""
    expected = backbone.network.state_dict()
    translate = str if has_timm_names(file) else backbone_from_authors_key
    inside = {translate(key): tensor for key, tensor in file.backbone.items()}
    used = {key: tensor for key, tensor in inside.items() if key is not None and key in expected}
    if used.keys() != expected.keys():
        raise AuthorsCheckpointError(
            f"{str(file.path)!r} contains only {len(used)} of the {len(expected)} tensors of its backbone "
            f"{backbone.name!r}; name the backbone that the head was trained with by --backbone (timm's name), and "
            f"give a local file of its weights by --pre-trained unless timm's weights were used."
        )
    check_tensors(file.path, "the backbone", used, expected)
    return used
