# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Compare Grad with any image model of anomalib, each one model for all products: accuracy, training, size, latency.

python examples/compare --root ../shared/data --weights mobilenetv2_100=../shared/weights/mobilenetv2_100.safetensors
python examples/compare --root products --models Stfpm --side 256 --steps 500 --random-encoders    # any of anomalib's

Encoders of timm are read from local files; a few models download others by themselves. Data, masks and metrics are the
same for all models. Image size and training length are as given; table.csv also lists the recommended ones. Finished
rows are stored: run the same command again to resume. Every run measures the latency of all exports again.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from anomalib.engine import Engine
from anomalib.models import list_models
from anomalib.models.components.feature_extractors import TimmFeatureExtractor
from contestants import DINO, ROWS, Row, build, callbacks_of, row_of, short_warm_up
from costs import inference_peak_mb, latencies, peak_mb, reset_peak, size_mb
from lightning import seed_everything
from local_weights import local_weights
from storing import digest, load_or_compute
from tables import METRICS, to_csv, to_markdown
from token_cache import TokenCache, cached_tokens

from anomalib_grad import MultiCategory
from anomalib_grad.backbone.weights import BackboneWeightsError
from anomalib_grad.files.atomic import make_folder
from anomalib_grad.files.refusals import message

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
PACKAGES = ("anomalib", "anomalib-grad", "torch", "timm", "openvino")


def origin() -> dict[str, str]:
    """Return machine, package versions and date of a measurement."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "machine": f"{os.cpu_count()} x {names[0] if names else platform.processor()}",
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
        "date": datetime.now(tz=timezone.utc).date().isoformat(),
    }


def data_of(args: argparse.Namespace) -> MultiCategory:
    """Build the datamodule, the same for every row."""
    data = MultiCategory(
        root=args.root,
        categories=args.categories or "all",
        train_batch_size=args.batch,
        eval_batch_size=args.eval_batch,
        num_workers=args.num_workers,
    )
    data.setup()
    return data


def conditions_of(args: argparse.Namespace, categories: Sequence[str]) -> dict[str, str]:
    """Return the conditions of a row that its file name does not contain."""
    names = ("root", "batch", "cells", "precision", "random_encoders")
    return {"categories": ", ".join(categories)} | {name: str(getattr(args, name)) for name in names}


def digests(names: Iterable[str], args: argparse.Namespace) -> dict[str, str]:
    """Return the digests of the weight files given for encoders, by timm name."""
    return {name: digest(args.weights[name]) for name in names if name in args.weights}


def length_of(row: Row, model: Any, args: argparse.Namespace) -> dict[str, int]:  # noqa: ANN401  # any of anomalib's
    """Return the training length as arguments of the Engine.

    Raises:
        ValueError: If neither the command line nor the model defines it.
    """
    if row.model == "Grad" or "max_epochs" in model.trainer_arguments:
        return {}  # they set it themselves
    if row.trains and args.steps is not None:
        return {"max_steps": args.steps}
    if not row.length:
        raise ValueError(f"{row.model} defines no training length: give --steps")
    return dict(row.length)


def run(name: str, args: argparse.Namespace, cache: TokenCache | None) -> dict[str, Any]:
    """Train, test and export one row; an error is recorded in it under ``problem``."""
    row, data = row_of(name), data_of(args)
    side = row.size or args.side
    steps = args.steps if row.trains else None
    result: dict[str, Any] = {"side": side, "batch": args.batch, "steps": steps}
    given = f"{side or 'its own'} px, {steps or 'its own'} steps of {args.batch}"
    print(f"\n{name}: recommended: {row.recommended}; given: {given}", flush=True)
    reset_peak()
    seed_everything(args.seed, verbose=False)
    attempt = "build"
    try:
        with local_weights(args.weights, random_encoders=args.random_encoders) as served:
            model = build(row, side, steps, len(data.train_data), args.cells, served)
        result["random_encoder"] = bool(served.random)
        result["encoder"] = row.encoder or " ".join(sorted(served.files | served.random))
        result["weights"] = digests(sorted(served.files), args)
        attempt = "train"
        # Without validation, thresholds are not fitted; no metric depends on them.
        common: dict[str, Any] = {"default_root_dir": args.out / slug(name), "limit_val_batches": 0, "logger": False}
        precision = args.precision if row.trains else "32-true"
        length = length_of(row, model, args)
        with cached_tokens(model, cache) if cache else nullcontext():
            engine = Engine(**length, **common, precision=precision, callbacks=callbacks_of(row))
            start, before = time.process_time(), cache.seconds if cache else 0.0
            with short_warm_up(row, steps):
                engine.fit(model, datamodule=data)
            saved = cache.seconds - before if cache else 0.0
            result["train_cpu_s"] = time.process_time() - start + saved
            result |= {"steps": engine.trainer.global_step, "precision": precision}
            attempt = "test"
            (found,) = Engine(**common).test(model, datamodule=data)  # in full precision
        result |= {figure: value for figure, value in found.items() if figure.rpartition("/")[2] in METRICS}
        result["train_peak_mb"] = peak_mb()
        attempt = "export"
        result["export"] = str(model.eval().float().cpu().to_openvino(args.out / slug(name)))
        result["export_mb"] = size_mb(Path(result["export"]))
    except Exception as error:  # noqa: BLE001  # other people's models, each with its own: the row says which
        first = (str(error).strip() or "no message").splitlines()[0]
        attempt = "build" if isinstance(error, BackboneWeightsError) else attempt
        result["problem"] = f"{attempt}: {type(error).__name__}: {first}"
    return result


def slug(text: str) -> str:
    """Convert a text to a file name."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in text).lower().split())


def timed(rows: list[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows with latency and peak memory of their exports, all measured now."""
    exports = {row["model"]: (Path(row["export"]), row["side"] or 224) for row in rows if "export" in row}
    measured: dict[str, dict[str, float]] = {name: {} for name in exports}
    for threads in args.threads:
        for name, own in latencies(exports, threads, args.rounds).items():
            measured[name] |= {f"{kind}_{threads}": value for kind, value in own.items()}
    for name, export in exports.items():
        measured[name]["inference_peak_mb"] = inference_peak_mb(*export)
    return [{**row, **measured.get(row["model"], {})} for row in rows]


def cache_of(args: argparse.Namespace) -> TokenCache | None:
    """Return the store of the transformer's tokens, if ``--memory`` is given."""
    if args.memory is None:
        return None
    with local_weights(args.weights):  # created by anomalib, which changes how timm interpolates positions from here on
        extractor: Any = TimmFeatureExtractor(DINO, ["blocks.0"], output_fmt="NLC")
    return TokenCache(extractor.feature_extractor, args.memory)


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def model_name(text: str) -> str:
    """Check the label of a row, or the name of an image model of anomalib."""
    if text not in ROWS and text not in list_models(case="pascal"):
        raise argparse.ArgumentTypeError(f"there is no {text!r}; --help lists the labels and classes")
    return text


def weight_file(text: str) -> tuple[str, Path]:
    """Parse ``name=file``."""
    name, equals, file = text.partition("=")
    if not equals or not Path(file).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not TIMM_NAME=FILE with an existing file")
    return name, Path(file)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one MVTec-AD-style folder per product")
    parser.add_argument("--categories", nargs="+", help="products to use; default: all, in one model")
    classes = ", ".join(sorted(list_models(case="pascal")))
    parser.add_argument(
        "--models",
        nargs="+",
        type=model_name,
        default=list(ROWS),
        help=f"default: {'; '.join(ROWS)}. Or classes: {classes}",
    )
    parser.add_argument(
        "--weights", nargs="+", type=weight_file, default=[], metavar="NAME=FILE", help="files by timm name"
    )
    parser.add_argument("--random-encoders", action="store_true", help="use random weights where there is no file")
    parser.add_argument(
        "--side", type=positive, help="side of the images in pixels, without crop; default: each model's own"
    )
    parser.add_argument("--steps", type=positive, help="steps of every training; default: each model's own")
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--eval-batch", type=positive, default=4, help="nearest neighbours in a large bank need memory")
    parser.add_argument(
        "--cells", type=positive, default=1000, help="cells of all training images that PatchCore keeps"
    )
    parser.add_argument(
        "--precision", default="32-true", choices=PRECISIONS, help="of training; tests and exports use float32"
    )
    parser.add_argument("--memory", type=Path, help=f"folder that caches {DINO}'s tokens; 2.4 MB per image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=positive, nargs="*", default=[1, 2], help="OpenVINO threads to time; none: no timing"
    )
    parser.add_argument("--rounds", type=positive, default=20, help="timed rounds")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--out", type=Path, default=Path("results/compare"), help="folder for finished rows and tables")
    args = parser.parse_args(given)
    args.weights = dict(args.weights)
    return args


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the rows that are not stored yet, time all exports, write ``table.csv`` and ``table.md``; return the rows."""
    categories = data_of(args).categories
    make_folder(args.out)  # now, not after hours of training
    rows, cache = [], cache_of(args)
    for name in args.models:
        row = row_of(name)
        file = args.out / f"{slug(name)}_{row.size or args.side}_{args.steps}_{args.seed}.json"
        fixed = {"model": name, "encoder": row.encoder, "seed": args.seed, "recommended": row.recommended}
        fixed["conditions"] = conditions_of(args, categories)
        own = cache if row.encoder == DINO else None
        found = load_or_compute(file, lambda n=name, f=fixed, m=own: {**f, **run(n, args, m), **origin()})
        if found["conditions"] != fixed["conditions"]:
            raise SystemExit(f"{file} was computed under other conditions, {found['conditions']}: give another --out")
        weights = found.get("weights", {})
        if weights != digests(weights, args):
            raise SystemExit(f"{file} was computed with other weights of its encoder: give those, or another --out")
        if str(found.get("problem")).startswith("build"):
            file.unlink(missing_ok=True)  # missing files may be available the next time
        rows.append(found)
    if args.threads:
        rows = timed(rows, args)
    (args.out / "table.csv").write_text(to_csv(rows, categories))
    (args.out / "table.md").write_text(to_markdown(rows, categories) + "\n")
    return rows


def main() -> None:
    """Compare the models and print the table."""
    args = arguments()
    try:
        rows = compare(args)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {message(error)}") from error
    print(f"\n{(args.out / 'table.md').read_text()}\ntorch: {torch.get_num_threads()} threads; {origin()['machine']}")
    if all("problem" in row for row in rows):
        raise SystemExit("No model ran to its end; the table says why.")


if __name__ == "__main__":
    main()
