# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Train one Grad model on every product in a folder: the Python twin of configs/unified_folder.yaml.

python examples/unified.py ./products --layout folder
python examples/unified.py ./datasets/MVTecAD --layout mvtec --categories bottle cable
"""

import argparse
from pathlib import Path

from anomalib.engine import Engine

from anomalib_grad import Grad, MultiCategory

LAYOUTS = {
    "mvtec": {"dataset": "MVTecAD", "val_split_mode": "same_as_test"},
    "folder": {
        "dataset": "Folder",
        "dataset_args": {"normal_dir": "good", "abnormal_dir": "defect", "mask_dir": "mask"},
        "balanced": True,
        "test_split_ratio": 0.2,
        "val_split_mode": "from_test",
        "val_split_ratio": 0.5,
    },
}


def main() -> None:
    """Train, test, and print the metrics of every product and their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with one folder per product")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="folder", help="layout of a product's folder")
    parser.add_argument("--categories", nargs="+", help="products to use; default: all")
    parser.add_argument("--backbone-weights", type=Path, help="local weight file; default: timm's from the internet")
    parser.add_argument("--backbone", default="tf_efficientnet_b4.aa_in1k", help="timm model name")
    parser.add_argument("--max-epochs", type=int, help="default: the published number")
    parser.add_argument("--num-workers", type=int, default=8, help="processes that read images")
    args = parser.parse_args()

    try:
        datamodule = MultiCategory(
            root=args.root,
            categories=args.categories or "all",
            num_workers=args.num_workers,
            seed=42,
            **LAYOUTS[args.layout],
        )
        print("one model for", ", ".join(datamodule.categories))
        model = Grad(backbone=args.backbone, pre_trained=args.backbone_weights or True)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    engine = Engine() if args.max_epochs is None else Engine(max_epochs=args.max_epochs)
    engine.fit(model, datamodule=datamodule)
    for results in engine.test(model, datamodule=datamodule):
        for name, value in results.items():
            print(f"{name:40} {value:.4f}")


if __name__ == "__main__":
    main()
