# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the study: training and scoring of each."""

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from anomalib.engine import Engine
from lightning import seed_everything

from anomalib_grad import Grad, MultiCategory

BATCH_SIZE = 16


@dataclass(frozen=True)
class Row:
    """A training and a scoring method; rows with the same training share its weights.

    Attributes:
        recipe: The package's recipe for the training.
        arguments: Arguments of Grad that differ from the recipe.
        scoring: Map settings that differ from those of the training; ``None`` scores by nearest neighbours instead.
    """

    recipe: str
    arguments: dict[str, Any] = field(default_factory=dict)
    scoring: dict[str, Any] | None = field(default_factory=dict)


def train(
    row: Row, seed: int, args: argparse.Namespace, batch_size: int = BATCH_SIZE
) -> tuple[Grad, MultiCategory, float]:
    """Train without validation; return the model, its data and the CPU seconds of training.

    A cache on disk shares the features of the training images among rows.
    """
    seed_everything(seed, verbose=False)
    data = MultiCategory(
        root=args.root, train_batch_size=batch_size, eval_batch_size=BATCH_SIZE, num_workers=args.num_workers
    )
    data.setup()
    model = Grad(
        row.recipe,
        **{"backbone": args.backbone, **row.arguments},
        pre_trained=args.weights or True,
        feature_cache="disk",
        cache={"folder": args.out / "features"},
        evaluator=False,
        visualizer=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(limit_val_batches=0, default_root_dir=folder, logger=False)
        start = time.process_time()
        engine.fit(model, datamodule=data)
        seconds = time.process_time() - start
    return model.eval().float().cpu(), data, seconds


def steps(number: int, **training: Any) -> dict[str, Any]:  # noqa: ANN401  # settings of training
    """Return the arguments of a training with a fixed number of steps, for any number of images."""
    return {"training": {"steps": number, "least_passes": 1, **training}}


FAITHFUL, NEAREST, PLUS = "faithful small", "nearest neighbours", "plus"

SLOWER = {"learning_rate": 1e-3, "grid_learning_rate": 0.1}
FOUR = {"method": {"num_blocks": 4}}
FAST = {
    "published (50 epochs)": Row("crad_s"),
    "cosine, 150 steps": Row("fast", steps(150, **SLOWER)),
    "cosine, 300 steps": Row("fast", steps(300, **SLOWER)),
    "cosine, 300 steps, 4 blocks": Row("fast", steps(300, **SLOWER) | FOUR),
    "cosine, 200 steps, rates x 3": Row("fast", steps(200)),
    "cosine, 300 steps, rates x 3": Row("fast", steps(300)),
    "cosine, 400 steps, 4 blocks, rates x 3": Row("fast", steps(400) | FOUR),
}
"""Ways to reach the published accuracy in less time."""

STAGES, TWO = {"layers": "coarsest_stages"}, {"method": {"num_blocks": 2}}
BETTER = {
    FAITHFUL: Row("fast", steps(500)),
    NEAREST: Row("plus", steps(1), scoring=None),
    PLUS: Row("plus"),
    "plus, not scaled": Row("plus", scoring={"scaled": False}),
    "plus, cosine": Row("plus", scoring={"distance": "cosine", "scaled": False}),
    "plus, largest value": Row("plus", scoring={"score_share": None, "score_window": 1}),
    "plus, not whitened": Row("plus", {"method": {"whitening": False}}),
    "plus, not whitened, cosine": Row(
        "plus",
        {"method": {"whitening": False}},
        {"distance": "cosine", "scaled": False, "score_share": None, "score_window": 1},
    ),
    "plus, 300 steps": Row("plus", steps(300)),
    "plus, no copies, 1000 steps": Row("plus", steps(1000, copies=0)),
    "plus, both stages": Row("plus", STAGES),
    "plus, both stages, 2 blocks": Row("plus", STAGES | TWO),
    "plus, both stages, 2 blocks, one copy": Row("plus", steps(1500, copies=1) | STAGES | TWO),
    "plus, no patches": Row("plus", {"training": {"pasted_patches": 0}}),
    "plus, no copy turned": Row("plus", {"training": {"turned_below": 0}}),  # matters only for products with few images
    "plus, all copies turned": Row("plus", {"training": {"turned_below": 10_000}}),
}
"""Ablations of ``plus`` on many products, and baselines."""

PLAIN = {"training": {"copies": 0}}
TRANSFORMER = {
    PLUS: Row("plus"),
    NEAREST: Row("plus", steps(1), scoring=None),
    "nearest neighbours, three quarters": Row("plus", steps(1) | {"layers": "coarsest"}, scoring=None),
    "no copies": Row("plus", PLAIN),
    "no copies, three quarters": Row("plus", PLAIN | {"layers": "coarsest"}),
    "no copies, block 5": Row("plus", PLAIN | {"layers": ["blocks.4"]}),
    "three copies": Row("plus", {"training": {"copies": 3}}),
    "one global cell": Row("plus", {"method": {"global_resolution": 1}}),  # the same global normal map for every image
}
"""Depth of the features of ``plus`` in a ViT of 12 blocks, number of copies of its images, and its global grid."""

GROUPS = {"better": BETTER, "fast": FAST, "transformer": TRANSFORMER}
