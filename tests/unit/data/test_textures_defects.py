# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures and defects of the generated textures."""

import numpy as np
import pytest
import skimage.data

from anomalib_grad.data.textures.defects import DEFECTS
from anomalib_grad.data.textures.sources import CATEGORIES, PHOTOS, crop, plate, source

CASES = [(category, defect) for category in CATEGORIES for defect in DEFECTS]
RENDERED = ("plate", "missing")  # drawn without the hole rather than painted over


@pytest.mark.parametrize(("category", "defect"), CASES)
def test_nothing_outside_the_mask_changes(category: str, defect: str) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        picture = crop(category, "test", 128, rng)
        result, mask = DEFECTS[defect](picture.copy(), category, rng)
        assert result.shape == picture.shape
        assert result.dtype == np.uint8
        if (category, defect) != RENDERED:
            assert np.array_equal(result[~mask], picture[~mask])


@pytest.mark.parametrize(("category", "defect"), CASES)
def test_defects_are_visible_and_small(category: str, defect: str) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        picture = crop(category, "test", 128, rng)
        result, mask = DEFECTS[defect](picture, category, rng)
        assert 0.002 < mask.mean() < 0.25
        if (category, defect) != RENDERED:
            assert np.abs(result.astype(int) - picture)[mask].mean() > 8


def test_the_mask_of_a_missing_hole_is_where_the_hole_would_be() -> None:
    whole, lacking = plate(128, seed=3), plate(128, seed=3, missing=(1, 2))
    changed = (whole != lacking).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert 128 / 4 < rows.mean() < 128 / 2
    assert 128 / 2 < columns.mean() < 3 * 128 / 4
    assert lacking[changed].mean() > whole[changed].mean() + 60
    result, mask = DEFECTS["missing"](whole, "plate", np.random.default_rng(0))
    assert result[mask].mean() > 120  # metal where a hole would be dark


@pytest.mark.parametrize("category", sorted(PHOTOS))
def test_training_and_test_crops_come_from_disjoint_parts(category: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.zeros_like(source(category))
    whole[:, :307] = 100  # the training part
    whole[:, 307:] = 200
    monkeypatch.setattr("anomalib_grad.data.textures.sources.source", lambda _: whole)
    monkeypatch.setattr("anomalib_grad.data.textures.sources.relight", lambda picture, _: picture)
    for seed in range(50):
        assert set(np.unique(crop(category, "train", 192, np.random.default_rng(seed)))) == {100}
        assert set(np.unique(crop(category, "test", 192, np.random.default_rng(seed)))) == {200}


@pytest.mark.parametrize("category", sorted(PHOTOS))
def test_colouring_keeps_the_photographs_structure(category: str) -> None:
    grey = np.asarray(getattr(skimage.data, category)(), dtype=float)
    correlation = np.corrcoef(source(category).mean(axis=-1).ravel(), grey.ravel())[0, 1]
    assert correlation > 0.95
