# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of the study: how each is trained, and how it scores."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Training:
    """What makes the weights: a recipe of the package, and the arguments of Grad in which the row differs from it."""

    recipe: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A training, and what is done with its errors; rows of one training share its weights.

    Attributes:
        training: What makes the weights; ``None`` for nearest neighbours, which have none.
        scoring: Settings of the map in which the row differs from the training's own.
    """

    training: Training | None
    scoring: dict[str, Any] = field(default_factory=dict)


def steps(number: int, **training: Any) -> dict[str, Any]:  # noqa: ANN401  # settings of training
    """Arguments of a training of some steps, whatever the number of images."""
    return {"training": {"steps": number, "least_passes": 1, **training}}


FAITHFUL, NEAREST, PLUS = "faithful small", "nearest neighbours", "plus"

SLOWER = {"learning_rate": 1e-3, "grid_learning_rate": 0.1}
FOUR = {"method": {"num_blocks": 4}}
FAST = {
    "published (50 epochs)": Row(Training("crad_s")),
    "cosine, 150 steps": Row(Training("fast", steps(150, **SLOWER))),
    "cosine, 300 steps": Row(Training("fast", steps(300, **SLOWER))),
    "cosine, 300 steps, 4 blocks": Row(Training("fast", steps(300, **SLOWER) | FOUR)),
    "cosine, 200 steps, rates x 3": Row(Training("fast", steps(200))),
    "cosine, 300 steps, rates x 3": Row(Training("fast", steps(300))),
    "cosine, 400 steps, 4 blocks, rates x 3": Row(Training("fast", steps(400) | FOUR)),
}
"""How the published accuracy is had in less time."""

BETTER = {
    FAITHFUL: Row(Training("fast", steps(500))),
    NEAREST: Row(None),
    PLUS: Row(Training("plus")),
    "plus, not scaled": Row(Training("plus"), {"scaled": False}),
    "plus, cosine": Row(Training("plus"), {"distance": "cosine", "scaled": False}),
    "plus, largest value": Row(Training("plus"), {"score_share": None, "score_window": 1}),
    "plus, not whitened": Row(Training("plus", {"method": {"whitening": False}})),
    "plus, not whitened, cosine": Row(
        Training("plus", {"method": {"whitening": False}}),
        {"distance": "cosine", "scaled": False, "score_share": None, "score_window": 1},
    ),
    "plus, 300 steps": Row(Training("plus", steps(300))),
    "plus, no copies, 1000 steps": Row(Training("plus", steps(1000, copies=0))),
    "plus, no patches": Row(Training("plus", {"training": {"pasted_patches": 0}})),
}
"""What makes ``plus`` hold on many products, and what does not."""

GROUPS = {"better": BETTER, "fast": FAST}
