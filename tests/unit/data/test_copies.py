"""Copies of training images: what they look like, and how they are drawn."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.data import MVTecAD
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from anomalib_grad.data import MultiCategory
from anomalib_grad.data.copies import (
    MAX_SHIFT,
    AnyVersion,
    Copies,
    TrainOnCopies,
    moved,
    turned,
    with_copies,
)
from anomalib_grad.data.unreadable import NameUnreadableImages
from anomalib_grad.lightning_model import Grad
from helpers import tiny, write_category

SIDES = st.integers(1, 40)


@given(height=SIDES, width=SIDES, seed=st.integers(0, 999), integers=st.booleans())
def test_a_copy_has_shape_type_and_range_of_its_image(height: int, width: int, seed: int, integers: bool) -> None:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    image = (255 * image).to(torch.uint8) if integers else image
    copy = moved(image, seed)
    assert (copy.shape, copy.dtype) == (image.shape, image.dtype)
    assert copy.min() >= 0
    assert copy.max() <= (255 if integers else 1)


def test_copies_lie_elsewhere_by_no_more_than_a_small_share_of_the_side() -> None:
    image = torch.full((3, 100, 200), 0.2)
    image[:, 50, 100] = 1.0  # one bright pixel
    places = [divmod(int(moved(image, seed)[0].argmax()), 200) for seed in range(40)]
    assert len(set(places)) > 20
    assert all(abs(row - 50) <= 100 * MAX_SHIFT and abs(column - 100) <= 200 * MAX_SHIFT for row, column in places)
    assert min(row for row, _ in places) < 50 < max(row for row, _ in places)


@pytest.fixture
def loader(tmp_path: Path) -> DataLoader:
    for name in ("nut", "pin"):
        write_category(tmp_path / name)
    data = MultiCategory(root=tmp_path, train_batch_size=2, num_workers=0, seed=0)
    data.setup("fit")
    return data.train_dataloader()


def test_a_version_of_an_image_is_the_same_whenever_it_is_read_and_no_other(loader: DataLoader) -> None:
    count = len(loader.dataset)
    copies = Copies(loader.dataset, 2)
    assert len(copies) == len(copies.samples) == 3 * count
    versions = [copies[place * count].image for place in range(3)]
    assert torch.equal(versions[0], loader.dataset[0].image)
    assert torch.equal(versions[1], copies[count].image)
    assert not torch.equal(versions[1], versions[0])
    assert not torch.equal(versions[1], versions[2])
    assert copies[count].category == loader.dataset[0].category


@pytest.mark.parametrize(("shape", "places"), [((8, 8), 4), ((8, 6), 2)], ids=["square", "oblong"])
def test_an_image_is_turned_as_far_as_its_shape_allows_and_never_mirrored(shape: tuple[int, int], places: int) -> None:
    image = torch.zeros(3, *shape)
    image[:, 0, 1:3] = torch.tensor([1.0, 2.0])  # an arrow
    copies = [turned(image, seed) for seed in range(40)]
    assert {copy.shape for copy in copies} == {image.shape}
    assert len({tuple(map(tuple, (copy[0] > 0).nonzero().tolist())) for copy in copies}) == places
    assert all(any(torch.equal(copy.rot90(quarter, (1, 2)), image) for quarter in range(4)) for copy in copies)


def test_copies_of_products_with_few_images_are_turned_and_of_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, train in (("few", 2), ("many", 3)):
        write_category(tmp_path / name, train=train)
    data = MultiCategory(root=tmp_path, train_batch_size=1, num_workers=0, seed=0)
    data.setup("fit")
    with caplog.at_level("INFO"):
        versions, straight = (with_copies(data.train_dataloader(), 5, below).dataset for below in (3, 0))
    assert caplog.text.count("There are few training images of few, so their copies are turned as well") == 1
    pairs = [(versions[index], straight[index]) for index in range(len(versions))]
    differ = Counter(one.category for one, other in pairs if not torch.equal(one.image, other.image))
    assert differ["many"] == 0
    assert 4 <= differ["few"] <= 10  # a quarter of turns is none, and the images themselves stay


def test_an_epoch_is_as_long_as_before_and_draws_each_image_in_any_version(loader: DataLoader) -> None:
    drawing = with_copies(loader, 3)
    assert isinstance(drawing, DataLoader)
    assert len(drawing) == len(loader)
    count = len(loader.dataset)
    torch.manual_seed(0)
    epochs = [[int(index) for index in drawing.sampler] for _ in range(30)]
    assert all(sorted(index % count for index in epoch) == list(range(count)) for epoch in epochs)
    versions = Counter(index // count for epoch in epochs for index in epoch)
    assert set(versions) == {0, 1, 2, 3}
    assert min(versions.values()) > 0.6 * max(versions.values())
    assert len(next(iter(drawing)).image) == 2


def test_loaders_that_cannot_have_copies_stay_as_they_are_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    other = DataLoader(torch.arange(3))  # type: ignore[arg-type]
    assert with_copies(other, 2) is other
    assert "training.copies is off" in caplog.text


def test_a_damaged_image_is_named_whose_copies_are_trained_on(tmp_path: Path) -> None:
    image = write_category(tmp_path / "nut") / "train/good/001.png"
    data = MVTecAD(tmp_path, "nut", num_workers=0)
    data.setup()
    image.write_bytes(image.read_bytes()[:100])
    loader = with_copies(data.train_dataloader(), 1)
    others = dict.fromkeys(["val_dataloaders", "test_dataloaders", "predict_dataloaders"])
    with pytest.raises(OSError, match="truncated") as error:
        list(loader)
    NameUnreadableImages().on_exception(
        SimpleNamespace(train_dataloader=loader, **others), SimpleNamespace(), error.value
    )
    assert str(image) in str(error.value)


def test_a_training_on_loaders_says_that_there_are_neither_copies_nor_a_cache(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer: Any = SimpleNamespace(datamodule=None)
    for copies, place, said in ((2, "disk", ["training.copies", "feature_cache"]), (0, "auto", [])):
        model = Grad(**tiny(copies=copies), feature_cache=place)
        for callback in (TrainOnCopies(), model.feature_caching):
            callback.setup(trainer, model, "fit")
            callback.setup(trainer, model, "test")
        messages = [f"{name} is off: pass the trainer a datamodule instead of data loaders." for name in said]
        assert caplog.messages == messages
        caplog.clear()


def test_the_epoch_reaches_a_sampler_that_draws_by_it() -> None:
    class Draws(list):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    inner = Draws([0, 1])
    AnyVersion(inner, 2, 1).set_epoch(4)
    assert inner.epoch == 4
