# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Result images: anomalib's, each under a name of its own and with the image as the model has read it."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from anomalib.data import ImageBatch, ImageItem
from anomalib.visualization import ImageVisualizer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from PIL import Image
from torchvision.transforms.v2.functional import to_image

from .output_names import output_names, read_record, write_record
from .pictures import hatched, picture_of


class DistinctImageVisualizer(ImageVisualizer):
    """anomalib's ``ImageVisualizer`` (arguments, pictures) with a result for each input.

    Equal file names in different folders, and those of an earlier run into the same folder, do not overwrite one
    another: see ``output_names.py``. ``inputs.json`` beside the results says which input each was made of. Images of 16
    bits are shown as they are read, where anomalib's are white. Without ``output_dir`` the results of each run go to
    the folder ``images`` of that run.
    """

    _names: dict[str, str]
    _unrecorded: dict[str, str]

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the results of all images that will be tested."""
        del pl_module
        self._start(trainer, trainer.test_dataloaders)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the results of all images that will be predicted on."""
        del pl_module
        self._start(trainer, trainer.predict_dataloaders)

    def on_test_batch_end(  # type: ignore[override]  # anomalib narrows Lightning's types
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the results of a batch."""
        del outputs
        ignored = getattr(pl_module, "ignored_pixels", lambda _: None)(batch)
        paths = batch.image_path or [f"{dataloader_idx}_{batch_idx}_{number}.png" for number in range(len(batch))]
        unlisted = [path for path in paths if path not in self._names]
        if unlisted:
            self._name(trainer, unlisted)
        self._record(trainer)
        left_out = [None] * len(batch) if ignored is None else ignored.expand(len(batch), -1, -1).cpu().numpy()
        for path, item, own in zip(paths, batch, left_out, strict=True):
            picture = self.visualize(self._as_read(item, own))
            if isinstance(picture, Image.Image):
                file = self._folder(trainer) / self._names[path]
                file.parent.mkdir(parents=True, exist_ok=True)
                picture.save(file)

    def _folder(self, trainer: pl.Trainer) -> Path:
        return Path(self.output_dir or Path(trainer.default_root_dir) / "images")

    def _start(self, trainer: pl.Trainer, loaders: Any) -> None:  # noqa: ANN401  # whatever Lightning was given
        self._names, self._unrecorded = {}, {}
        self._name(trainer, _inputs(loaders))

    def _name(self, trainer: pl.Trainer, inputs: list[str]) -> None:
        """Name the results of inputs."""
        record = {**read_record(self._folder(trainer)), **{name: path for path, name in self._names.items()}}
        data: Any = getattr(trainer, "datamodule", None)
        names = output_names(inputs, record, getattr(data, "name", None), getattr(data, "category", None))
        self._names |= names
        self._unrecorded |= names

    def _record(self, trainer: pl.Trainer) -> None:
        """Note what has been named since the last time; not before there is something to write."""
        if self._unrecorded and trainer.is_global_zero:
            folder = self._folder(trainer)
            write_record(folder, read_record(folder), self._unrecorded)
        self._unrecorded = {}

    def _as_read(self, item: ImageItem, ignored: np.ndarray | None) -> ImageItem:
        """Give an item with a picture of its image in the place of the file, which anomalib would open another way.

        What is ignored, ``(H, W)`` bool, is hatched.
        """
        if item.image_path is None:
            return item
        with Image.open(item.image_path) as file:
            picture = picture_of(file).resize(self.field_size)
        if ignored is not None:
            picture = hatched(picture, ignored)
        return item.update(in_place=False, image=to_image(picture), image_path=None)


def _inputs(loaders: Any) -> list[str]:  # noqa: ANN401  # whatever Lightning was given
    """List the images that loaders will draw, as far as their data sets do, with the paths that batches have."""
    inputs: list[str] = []
    for loader in CombinedLoader(loaders).flattened:
        dataset = getattr(loader, "dataset", None)
        samples = getattr(dataset, "samples", None)
        listed = getattr(dataset, "image_filenames", ()) if samples is None else samples["image_path"]
        inputs += [str(Path(path).resolve()) for path in listed]
    return inputs
