# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an image has one verdict, whichever way it comes in: form, size, runtime, quantised and tiled models.

python tests/benchmarks/verdicts.py --root ../shared/native_size [--images 8] [--threads 1]

Prints, for real images at their own size and enlarged to 12 megapixels, by how many grey levels the pixels that the
model looks at differ from those of the whole file in process, and by how much the normalised score does. The models are
a Grad (grad_tiny, small fusion), the same with four tiles, and its INT8 export, which is compared with itself on the
file. Their heads are random, with the range that the scores of these images have.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.data.utils.tiler import Tiler
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.deploy.export import CompressionType
from measure import SIZE, machine, markdown
from PIL import Image

from anomalib_grad import Grad
from anomalib_grad.data.read_or_refuse import read_image
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.deploy.frames import FrameFormat, as_batch

Judge = Callable[[Any], Any]
FORMS: dict[str, Callable[[Path], Any]] = {
    "file": lambda path: path,
    "Pillow image": lambda path: Image.open(path).convert("RGB"),
    "array": lambda path: np.asarray(Image.open(path).convert("RGB")),
    "tensor": lambda path: torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1),
}
METHOD = {"mse_threshold": 0.1}
TWELVE_MEGAPIXELS = (4096, 3000)


class Way(NamedTuple):
    """A way to a verdict.

    Attributes:
        judge: Takes an image in one of the forms.
        expected: Gives the verdict to compare with, of a file.
        forms: The forms that it takes.
    """

    judge: Judge
    expected: Judge
    forms: Sequence[str] = tuple(FORMS)


def in_range(model: Grad, images: Iterable[np.ndarray]) -> None:
    """Give a model the statistics of some images, so that its scores are no raw ones."""
    with torch.no_grad():
        raw = [
            model.model(model.pre_processor(torch.from_numpy(i / 255).float()[None]))
            for i in (image.transpose(2, 0, 1) for image in images)
        ]
    values = torch.cat([prediction.pred_score for prediction in raw])
    post = model.post_processor
    post.image_min.fill_(0.8 * values.min())
    post.image_max.fill_(1.2 * values.max())
    post._image_threshold.fill_(values.mean())  # the median is the score of an image


def onnx_judge(path: Path, threads: int) -> Judge | None:
    """Run an ONNX file on plain onnxruntime, as anomalib's inferencer prepares images; ``None`` without it."""
    try:
        import onnxruntime  # noqa: PLC0415  # no dependency of this package
    except ModuleNotFoundError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda frame: session.run(None, {name: np.ascontiguousarray(OpenVINOInferencer.pre_process(frame))})


def real_images(root: Path) -> list[Path]:
    """List the images below a folder that are no masks."""
    found = sorted(p.resolve() for suffix in ("*.png", "*.jpg") for p in root.rglob(suffix))
    return [path for path in found if "ground_truth" not in path.parts]


def in_process(model: Grad) -> Judge:
    """The model in this process, on whatever the inferencer takes, at the size that it comes in."""

    @torch.no_grad()
    def judge(image: Any) -> Any:
        return model(torch.from_numpy(as_batch(image).transpose(0, 3, 1, 2).copy()))

    return judge


def ways(folder: Path, paths: Sequence[Path], threads: int) -> dict[str, Way]:
    """Export models in every way."""
    config = {"INFERENCE_NUM_THREADS": threads, "EXECUTION_MODE_HINT": "ACCURACY"}
    found = {}
    for name, tiler in (("", None), (", tiled", Tiler(tile_size=SIZE[0] // 2, stride=SIZE[0] // 2))):
        torch.manual_seed(0)
        model = Grad(backbone="grad_tiny", fusion="small", image_size=SIZE, method=METHOD, visualizer=False).eval()
        model.model.tiler = tiler
        in_range(model, (np.asarray(Image.open(path).convert("RGB")) for path in paths))
        process = in_process(model)
        exported = model.to_openvino(folder / f"openvino{name}")
        found[f"in process{name}"] = Way(process, process)
        found[f"ours on OpenVINO{name}"] = Way(CategoryOpenVINOInferencer(exported, "CPU", config).predict, process)
        if tiler is not None:
            break
        onnx = model.to_onnx(folder / "onnx")
        found["ours on ONNX"] = Way(CategoryOpenVINOInferencer(onnx, "CPU", config).predict, process)
        found["anomalib's on OpenVINO"] = Way(
            OpenVINOInferencer(exported, "CPU", config).predict, process, ("file", "array")
        )
        torch_file = model.to_torch(folder / "torch")
        found["anomalib's on torch"] = Way(
            TorchInferencer(torch_file, device="cpu").predict, process, ("file", "array")
        )
        if (plain := onnx_judge(onnx, threads)) is not None:
            found["plain onnxruntime"] = Way(plain, process, ("array",))
        splits = {"test_split_mode": "none", "val_split_mode": "from_train"}
        data = Folder("all", root=paths[0].parent, normal_dir=".", num_workers=0, **splits)
        int8 = model.to_openvino(folder / "int8", compression_type=CompressionType.INT8_PTQ, datamodule=data)
        quantised = CategoryOpenVINOInferencer(int8, "CPU", config).predict
        found["ours on INT8"] = Way(quantised, quantised)
    return found


def score_of(prediction: Any) -> float:
    """The normalised score of whatever a runtime gives."""
    score = prediction[0] if isinstance(prediction, list) else prediction.pred_score
    return float(np.asarray(score).item())


def grey_levels(image: Any, path: Path) -> float:
    """Largest difference of what the model looks at from the whole file resized without rounding, in grey levels."""
    small = torch.nn.functional.interpolate(read_image(path)[None], SIZE, mode="bilinear", antialias=True)
    own = as_batch(image, FrameFormat(SIZE))
    return 255 * float(np.abs(own - small.permute(0, 2, 3, 1).numpy()).max())


def table(paths: Sequence[Path], folder: Path, threads: int) -> str:
    """Judge images in every way.

    Args:
        paths: Files.
        folder: Where exports and enlarged images go.
        threads: Of the runtimes.
    """
    enlarged = [folder / f"{number}.png" for number in range(len(paths))]
    for path, target in zip(paths, enlarged, strict=True):
        large = Image.open(path).convert("RGB").resize(TWELVE_MEGAPIXELS, Image.Resampling.BICUBIC)
        large.save(target, compress_level=1)
    rows: list[list[object]] = []
    judges = ways(folder, paths, threads)
    for size, files in (("native", paths), ("12 megapixels", enlarged)):
        pixels = {form: max(grey_levels(load(file), file) for file in files) for form, load in FORMS.items()}
        for name, way in judges.items():
            expected = [score_of(way.expected(file)) for file in files]
            for form in way.forms:
                got = [score_of(way.judge(FORMS[form](file))) for file in files]
                pairs = list(zip(got, expected, strict=True))
                changed = sum((a > 0.5) != (b > 0.5) for a, b in pairs)  # the threshold
                largest = max(abs(a - b) for a, b in pairs)
                levels = f"{pixels[form]:.2f}" if name.startswith("ours") else "-"
                rows.append([size, name, form, levels, f"{largest:.4f}", f"{changed} of {len(pairs)}"])
    return markdown(["size", "way", "given", "grey levels", "score", "other verdict"], rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of real images")
    parser.add_argument("--images", type=int, default=8, help="how many of them, spread over the folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["TRUST_REMOTE_CODE"] = "1"  # files of this very run
    paths = real_images(args.root)
    chosen = paths[:: max(1, len(paths) // args.images)][: args.images]
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)  # anomalib's cache of compiled models
        print(f"{machine()}, {args.threads} threads, {len(chosen)} images\n")
        print(table(chosen, Path(name), args.threads))
        os.chdir("/")


if __name__ == "__main__":
    main()
