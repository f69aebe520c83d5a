# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Images to predict on, read by the rules of ``pixels.py``."""

from collections.abc import Callable
from typing import cast

from anomalib.data import ImageBatch, ImageItem, PredictDataset

from .reading import read_image


class PredictImages(PredictDataset):
    """anomalib's ``PredictDataset`` for images of any kind that ``MultiCategory`` trains on, 16-bit ones among them.

    On the command line: ``anomalib predict --data anomalib_grad.data.PredictImages --data.path images``.

    Args:
        path: An image, or a folder; images in the folders below it are taken as well.
        transform: What is applied to each image; ``None``: nothing.
        image_size: Unused, as in anomalib: the model resizes.

    Raises:
        ValueError: If there is no image.

    Example:
        >>> engine.predict(model, dataset=PredictImages("images"))  # doctest: +SKIP
    """

    def __getitem__(self, index: int) -> ImageItem:
        """Read an image.

        Raises:
            UnreadableImageError: If that is impossible; names the file.
        """
        path = self.image_filenames[index]
        image = read_image(path)
        return ImageItem(image=self.transform(image) if self.transform else image, image_path=str(path))

    @property
    def collate_fn(self) -> Callable[[list[ImageItem]], ImageBatch]:
        """Joins images of one size into a batch."""
        return collate_equal_sizes


def collate_equal_sizes(items: list[ImageItem]) -> ImageBatch:
    """Join images into a batch, but never resize one for the sake of another, which changes its score.

    Raises:
        ValueError: If their sizes differ.
    """
    sizes = {tuple(item.image.shape[-2:]) for item in items if item.image is not None}
    if len(sizes) > 1:
        raise ValueError(
            f"{len(items)} images of {len(sizes)} sizes cannot share a batch; use batches of one, or give "
            "PredictImages a transform that resizes them."
        )
    return cast("ImageBatch", ImageBatch.collate(items))
