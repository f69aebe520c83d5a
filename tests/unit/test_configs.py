# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes in configs/ are ones that can be trained."""

from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer

from anomalib_grad import Grad

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_builds_its_model_and_validates_its_last_epoch(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    model = Grad(**{**recipe["model"].get("init_args", {}), "pre_trained": False})
    trainer = Trainer(
        **{**recipe.get("trainer", {}), "precision": "32-true"},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
    )
    model.trainer = trainer  # fills in the recipe's own epochs
    assert trainer.max_epochs
    assert trainer.max_epochs > 0
    assert trainer.max_epochs % (trainer.check_val_every_n_epoch or 1) == 0


def test_the_fast_recipe_takes_a_fraction_of_the_published_epochs() -> None:
    fast, published = (
        yaml.safe_load((CONFIGS[0].parent / name).read_text())["trainer"] for name in ("fast.yaml", "crad_s.yaml")
    )
    assert fast["max_epochs"] <= published["max_epochs"] / 3
