# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import CATEGORIES

from anomalib_grad.data import MultiCategory

CONFIGS = Path(__file__).parents[3] / "configs"


def datamodule_of(config: str, folder: Path) -> MultiCategory:
    data = folder / "data.yaml"
    data.write_text(yaml.safe_dump(yaml.safe_load((CONFIGS / config).read_text())["data"]))
    datamodule = AnomalibDataModule.from_config(data)
    assert isinstance(datamodule, MultiCategory)
    return datamodule


def test_unified_mvtec_has_the_fifteen_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert datamodule_of("unified_mvtec.yaml", tmp_path).categories == sorted(CATEGORIES)


def test_unified_folder_reads_a_folder_per_product(
    tmp_path: Path,
    product: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("bolt", "nut"):
        source = product(tmp_path / "source" / name, train=10, good=0, defects=4)
        target = tmp_path / "products" / name
        target.mkdir(parents=True)
        (source / "train/good").rename(target / "good")
        (source / "test/crack").rename(target / "defect")
        (target / "mask").mkdir()
        for mask in (source / "ground_truth/crack").iterdir():
            mask.rename(target / "mask" / mask.name.replace("_mask", ""))
    monkeypatch.chdir(tmp_path)
    datamodule = datamodule_of("unified_folder.yaml", tmp_path)
    assert datamodule.balanced
    datamodule.num_workers = 0
    datamodule.setup()
    for subset, counts in (("train", (8, 0)), ("val", (3, 2)), ("test", (3, 2))):
        samples = getattr(datamodule, f"{subset}_data").samples
        for name in ("bolt", "nut"):
            labels = samples.loc[samples["category"] == name, "label_index"]
            assert (len(labels), labels.sum()) == counts
