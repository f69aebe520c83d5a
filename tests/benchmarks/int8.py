# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What 8 bits gain and cost: CPU time of an image, and image AUROC of every product, FP32 and INT8_PTQ side by side.

python tests/benchmarks/int8.py CHECKPOINT --root ../shared/data

The checkpoint's model is exported both ways; calibration sees the datamodule's validation images, which in MVTec AD's
layout are the test images that are judged. Times are taken in turns, on one thread, at each of OpenVINO's inference
precisions.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from anomalib.deploy import CompressionType
from measure import compile_model, images, in_turns, machine, markdown, size_mb
from sklearn.metrics import roc_auc_score

from anomalib_grad import Grad, MultiCategory
from anomalib_grad.deploy import CategoryOpenVINOInferencer

COMPRESSIONS = {"FP32": None, "INT8_PTQ": CompressionType.INT8_PTQ}


def image_auroc(path: Path, data: MultiCategory) -> list[float]:
    """Image AUROC of every product and their mean, in percent."""
    inferencer = CategoryOpenVINOInferencer(path)
    samples = data.test_data.samples
    samples["score"] = [inferencer.predict(image).pred_score.item() for image in samples["image_path"]]
    products = samples.groupby("category")
    own = [100 * float(roc_auc_score(rows["label_index"], rows["score"])) for _, rows in products]
    return [*own, float(np.mean(own))]


def main() -> None:
    """Export, judge, time, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="folder of the products that it was trained on")
    parser.add_argument("--categories", nargs="+", help="some of them; default: all")
    parser.add_argument("--hints", nargs="+", default=["bf16", "f32"], help="OpenVINO's inference precisions")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    data = MultiCategory(root=args.root, categories=args.categories or "all", num_workers=0)
    data.setup()
    rows, runs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, compression in COMPRESSIONS.items():
            model = Grad.load_from_checkpoint(args.checkpoint).eval()
            path = Path(model.to_openvino(Path(folder) / name, compression_type=compression, datamodule=data))
            runs |= {(name, hint): compile_model(path, hint, threads=1) for hint in args.hints}
            rows.append([name, *(f"{value:.2f}" for value in image_auroc(path, data)), f"{size_mb(path):.1f}"])
        batch = images(1)
        timings = in_turns({key: lambda run=run: run(batch) for key, run in runs.items()}, args.rounds)
    for row in rows:
        for hint in args.hints:
            own, full = (1000 * timings[name, hint].cpu for name in (row[0], "FP32"))
            row += [f"{own:.1f}", f"{full / own:.2f}"]
    timed = [head for hint in args.hints for head in (f"CPU ms, {hint}", "times as fast")]
    print(machine())
    print(markdown(["export", *data.categories, "mean image AUROC", "MB", *timed], rows))


if __name__ == "__main__":
    main()
