# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a row of the study; features of the same images are computed once for all rows."""

import argparse
import tempfile
import time

from anomalib.engine import Engine
from lightning import seed_everything
from recipes import Training

from anomalib_grad import Grad, MultiCategory

BATCH_SIZE = 16


def train(training: Training, seed: int, args: argparse.Namespace) -> tuple[Grad, MultiCategory, float]:
    """Train without validation; gives the model, its data and the CPU seconds."""
    seed_everything(seed, verbose=False)
    data = MultiCategory(
        root=args.root, train_batch_size=BATCH_SIZE, eval_batch_size=BATCH_SIZE, num_workers=args.num_workers
    )
    data.setup()
    model = Grad(
        training.recipe,
        **{"backbone": args.backbone, **training.arguments},
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
