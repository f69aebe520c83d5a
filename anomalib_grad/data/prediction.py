# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Dataset of images to predict on, read by the rules of ``pixels.py``."""

from pathlib import Path
from typing import NoReturn, cast

from anomalib.data import ImageBatch, ImageItem, PredictDataset
from torchvision.transforms.v2 import Transform

from .listing import IMAGE_SUFFIXES, list_images
from .read_or_refuse import DEFAULT_FORMAT, FileFormat, read_image
from .resizing import resized_to
from .unreadable import files_of, list_faulty


class PredictImages(PredictDataset):
    """anomalib's ``PredictDataset`` for all images that ``MultiCategory`` can train on, including 16-bit ones.

    On the command line: ``anomalib predict --data anomalib_grad.data.PredictImages --data.path images``.

    Args:
        path: An image, or a folder; images in its subfolders are included, hidden files never are (``listing.py``).
        transform: Transform of each image; ``None`` for none. If it resizes first, large images are read at that size.
        image_size: Unused, as in anomalib: the model resizes.
        skip_unreadable: Decode every image once beforehand, leave out unreadable ones, and list them in a warning, so
            that the others keep their results. ``False`` stops at the first unreadable image.
        bits: Bits that 16-bit files use, 10 to 16, as in training.
        max_pixels: Pixels of the largest file to read; ``None`` keeps the limit of Pillow's guard.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ValueError: If there is no image, or no readable one; if ``bits`` or ``max_pixels`` is out of range.

    Example:
        >>> engine.predict(model, dataset=PredictImages("images"))  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        transform: Transform | None = None,
        image_size: int | tuple[int, int] = (256, 256),
        skip_unreadable: bool = False,
        bits: int = DEFAULT_FORMAT.bits,
        max_pixels: int | None = None,
    ) -> None:
        # anomalib's constructor is not called, as it lists hidden files too
        self.file_format = FileFormat(bits, max_pixels)
        self.image_filenames = images_at(Path(path))
        self.transform = transform
        self.image_size = image_size
        if skip_unreadable:
            faulty = list_faulty(files_of(self), self.file_format)
            self.image_filenames = [image for image in self.image_filenames if (str(image), False) not in faulty]
            if not self.image_filenames:
                raise ValueError(f"no image in {path} can be read; see the warning above for what is wrong with each")

    def __getitem__(self, index: int) -> ImageItem:
        """Read an image.

        Raises:
            UnreadableImageError: If it cannot be read; names the file.
        """
        path = self.image_filenames[index]
        image = read_image(path, resized_to(self.transform), self.file_format)
        return ImageItem(image=self.transform(image) if self.transform else image, image_path=str(path))

    @property
    def name(self) -> NoReturn:
        """Raise an error: anomalib's engine asks only a datamodule for its name, so the images were passed as one.

        Raises:
            AttributeError: Says how to pass them.
        """
        raise AttributeError(
            "PredictImages is not a datamodule; call engine.predict(model, dataset=PredictImages(...))."
        )

    @staticmethod
    def collate_fn(items: list[ImageItem]) -> ImageBatch:
        """Join images into a batch without resizing any to another's size, which would change its score.

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


def images_at(path: Path) -> list[Path]:
    """Return the images of a folder, or the single image at ``path``.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ValueError: If the folder holds no image.
    """
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"there is no image or folder {path}; check the path")
        return [path]
    images = list_images(path)
    if not images:
        raise ValueError(f"there is no image in {path}: no file ends in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return images
