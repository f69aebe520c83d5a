# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torchvision.tv_tensors import Image, Mask

from anomalib_grad.data import CategoryImageBatch, CategoryImageItem


def item(category: str, *, mask: bool = True, size: int = 8) -> CategoryImageItem:
    return CategoryImageItem(
        image=Image(torch.rand(3, size, size)),
        gt_label=torch.tensor(1),
        gt_mask=Mask(torch.ones(size, size)) if mask else None,
        image_path=f"{category}.png",
        mask_path=f"{category}_mask.png" if mask else None,
        category=category,
    )


def test_category_survives_collate_iteration_update_and_transfer() -> None:
    batch = CategoryImageBatch.collate([item("a"), item("b")])
    assert [part.category for part in batch] == ["a", "b"]
    assert all(isinstance(part, CategoryImageItem) for part in batch.items)
    batch.update(pred_score=torch.tensor([0.25, 0.5]))
    assert batch.category == ["a", "b"]
    assert batch.items[1].pred_score == 0.5
    renamed = batch.update(in_place=False, category=["c", "d"])
    assert (renamed.category, batch.category) == (["c", "d"], ["a", "b"])
    moved = move_data_to_device(batch, torch.device("cpu"))
    assert isinstance(moved, CategoryImageBatch)
    assert moved.category == ["a", "b"]
    assert "category" in batch.keys(include_none=False)
    assert batch["category"] == ["a", "b"]


def test_category_survives_conversion_to_numpy() -> None:
    batch = CategoryImageBatch.collate([item("a"), item("b")]).to_numpy()
    assert [part.category for part in batch] == ["a", "b"]
    assert item("a").to_numpy().category == "a"


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_a_mask_that_not_every_image_has_is_left_out(order: tuple[bool, bool]) -> None:
    batch = CategoryImageBatch.collate([item("a", mask=order[0]), item("b", mask=order[1])])
    assert batch.gt_mask is None
    assert batch.gt_label.tolist() == [True, True]
    assert sorted(batch.mask_path) == ["", "a_mask.png" if order[0] else "b_mask.png"]


def test_images_of_different_sizes_become_the_largest() -> None:
    batch = CategoryImageBatch.collate([item("a"), item("b", size=12)])
    assert batch.image.shape == (2, 3, 12, 12)
    assert batch.gt_mask.shape == (2, 12, 12)


def test_names_must_match_the_images() -> None:
    with pytest.raises(ValueError, match="1 names for 2 images"):
        CategoryImageBatch(image=torch.rand(2, 3, 4, 4), category=["a"])
    with pytest.raises(TypeError, match="one name per image"):
        CategoryImageBatch(image=torch.rand(1, 3, 4, 4), category="a")
    with pytest.raises(TypeError, match="must be a str"):
        CategoryImageItem(image=torch.rand(3, 4, 4), category=["a"])
    assert CategoryImageBatch(image=torch.rand(2, 3, 4, 4)).category is None
