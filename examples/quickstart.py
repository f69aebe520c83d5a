# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""One model for four generated products, from training to the exported model, in a few CPU minutes without network.

uv run examples/quickstart.py

Everything here is the public API: the same lines work on your own data.
"""

import argparse
import os
import warnings
from pathlib import Path

# By default torch's threads wait busily for each other, which is slow where other programs use the processor as well.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from anomalib.engine import Engine
from lightning import seed_everything

from anomalib_grad import Grad
from anomalib_grad.data import Textures, list_images
from anomalib_grad.deploy import CategoryOpenVINOInferencer


def main() -> None:
    """Generate data, train, test with a report, export, and run the exported model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument(
        "--data", type=Path, default=Path("datasets/GradTextures"), help="folder for the generated images"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for all other output")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning|timm|anomalib")  # advice that a first run can ignore
    seed_everything(0)

    print("1/4  generate images of four products:", args.data)
    data = Textures(root=args.data)

    print(f"2/4  train one model for {', '.join(data.categories)}: {args.epochs} epochs")
    size = (data.spec.image_size, data.spec.image_size)
    windows = {"smoothing_window": 13, "score_window": 18}
    model = Grad("fast", backbone="grad_tiny", image_size=size, map=windows)
    engine = Engine(max_epochs=args.epochs, default_root_dir=args.results)
    engine.fit(model, datamodule=data)

    print("3/4  test it: a table row for each product, heatmaps and a report")
    engine.test(model, datamodule=data)

    print("4/4  export it: the exported model recognises each product and applies its threshold")
    results = Path(engine.trainer.default_root_dir)
    exported = model.to_openvino(results)
    inferencer = CategoryOpenVINOInferencer(exported, device="CPU")
    for category in data.categories:
        for kind in ("good", "stain"):
            image = list_images(args.data / category / "test" / kind)[0]
            prediction = inferencer.predict(image)
            verdict = "anomalous" if prediction.pred_label.item() else "normal"
            score = prediction.pred_score.item()
            print(
                f"     {category}/{kind}/{image.name}: recognised {prediction.explanation[0]}, {verdict} ({score:.2f})"
            )

    print(f"\nLook at  {results / 'report.html'}\n         {results / 'images'}\nand run  {exported}")


if __name__ == "__main__":
    main()
