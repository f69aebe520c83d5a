# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of two products on scales of their own, and a post-processor that is fitted on them."""

from types import SimpleNamespace

import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor

from anomalib_grad.data import CategoryImageBatch
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor

TRAINER = SimpleNamespace(sanity_checking=False, datamodule=None, state=SimpleNamespace(fn="validate"))
# Scores of two products; each separates its anomalies perfectly, on its own scale, and no common threshold does.
SCORES = {
    "bolt": ([1.0, 1.2, 1.4, 3.0, 3.5], [0, 0, 0, 1, 1]),
    "cap": ([10.0, 12.0, 14.0, 30.0, 35.0], [0, 0, 0, 1, 1]),
}


def make_batch(names: list[str] | None, scores: list[float], labels: list[int], *, masks: bool = True) -> ImageBatch:
    """Images whose map is half the score everywhere, and the whole score on the anomalous pixel."""
    score, label = torch.tensor(scores), torch.tensor(labels, dtype=torch.bool)
    maps = (score / 2)[:, None, None].repeat(1, 4, 4)
    maps[:, 0, 0] = score
    mask = torch.zeros(len(scores), 4, 4, dtype=torch.bool)
    mask[:, 0, 0] = label
    fields = {
        "image": torch.zeros(len(scores), 3, 4, 4),
        "gt_label": label,
        "gt_mask": mask if masks else None,
        "pred_score": score,
        "anomaly_map": maps,
    }
    return ImageBatch(**fields) if names is None else CategoryImageBatch(**fields, category=names)


def mixed_batches() -> list[ImageBatch]:
    """Batches in which the two products alternate."""
    (bolt, labels), (cap, _) = SCORES["bolt"], SCORES["cap"]
    return [make_batch(["cap", "bolt"], [cap[i], bolt[i]], [labels[i], labels[i]]) for i in range(5)]


def fit(batches: list[ImageBatch], post_processor: PostProcessor | None = None) -> PerCategoryPostProcessor:
    post_processor = post_processor or PerCategoryPostProcessor()
    for batch in batches:
        post_processor.on_validation_batch_end(TRAINER, None, batch)
    post_processor.on_validation_epoch_end(TRAINER, None)
    return post_processor


def judge(post_processor: PostProcessor, batch: ImageBatch) -> list[bool]:
    post_processor.on_test_batch_end(TRAINER, None, batch)
    return batch.pred_label.tolist()


def assert_same_verdicts(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Normalised scores stand on the same side of the threshold, and where anomalib orders them, in the same order."""
    assert torch.equal(ours > 0.5, theirs > 0.5)
    assert_same_order(ours, theirs)


def assert_same_order(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Normalised scores stand in the same order where anomalib orders them."""
    order = ours.flatten().argsort()
    assert (theirs.flatten()[order].diff() >= 0).all()
