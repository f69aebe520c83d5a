# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What one threshold for all products costs, against one for each: of scores in the map's unit, and as users see them.

python tests/benchmarks/one_threshold.py CHECKPOINT --root ../shared/data

Users see scores normalised by the thresholds and ranges in the checkpoint. Where those come from normal images alone
(``Grad(false_alarm_rate=0.1)``, ``MultiCategory(val_split_mode="from_train")``) no defect has had a say in them.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from measure import machine, markdown

from anomalib_grad import Grad, MultiCategory

sys.path.append(str(Path(__file__).parents[2] / "examples" / "study"))
from evaluate import thresholds

HEADS = ["scores", "F1, one threshold a product", "one for all", "difference", "pooled image AUROC"]


@torch.no_grad()
def judged(model: Grad, data: MultiCategory) -> pd.DataFrame:
    """Product of each test image, its scores, raw and normalised, and whether it is anomalous."""
    data.setup("test")
    rows = []
    for batch in data.test_dataloader():
        model.pre_processor.on_test_batch_start(None, model, batch, 0)
        raw = model.predict_step(batch).pred_score.tolist()
        model.post_processor.post_process_batch(batch)
        rows += zip(batch.category, raw, batch.pred_score.tolist(), batch.gt_label.tolist(), strict=True)
    return pd.DataFrame(rows, columns=["product", "raw", "normalised", "anomalous"])


def main() -> None:
    """Measure a checkpoint on a folder of products."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="folder of the products that it was trained on")
    args = parser.parse_args()
    model = Grad.load_from_checkpoint(args.checkpoint).eval()
    images = judged(model, MultiCategory(root=args.root, num_workers=0))
    rows = []
    for scores in ("raw", "normalised"):
        found = thresholds([(own[scores].values, own["anomalous"].values) for _, own in images.groupby("product")])
        own, shared = 100 * found["own/image_F1"], 100 * found["shared/image_F1"]
        rows.append([scores, *(f"{v:.1f}" for v in (own, shared, own - shared, 100 * found["pooled/image_AUROC"]))])
    print(f"{markdown(HEADS, rows)}\n{machine()}")


if __name__ == "__main__":
    main()
