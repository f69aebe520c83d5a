# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Run an exported model over any number of images, with Ray Data, on this machine or a cluster.

pip install 'anomalib-grad[ray]'
python examples/batch_inference.py results/weights/openvino/model.xml ./images --out ./judged --workers 8 --maps
python examples/batch_inference.py model.xml 's3://bucket/line3/*.png' --out s3://bucket/judged --category bottle

Writes OUT/predictions/*.parquet, one row per image; read all of it with pandas.read_parquet("OUT/predictions"):

path        the image
pred_score  anomaly score
pred_label  whether the image is anomalous
category    the recognised product, or the one of --category; null if the model knows none
map_path    the anomaly map, relative to OUT: an 8-bit PNG in which 0 to 255 stand for 0 to 1; null without --maps
error       why the image could not be read, else null; a row with an error has no score and no label

To resume after an interruption, run the same command again. It skips images that have a row, even unreadable ones.
"""

import argparse
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from fsspec.implementations.arrow import ArrowFSWrapper
from PIL import Image, UnidentifiedImageError

from anomalib_grad.data.listing import has_image_name, is_hidden
from anomalib_grad.data.listing import list_images as list_in_folder
from anomalib_grad.data.masks import is_mask
from anomalib_grad.data.pixels import rgb_pixels
from anomalib_grad.data.read_or_refuse import FileFormat, open_up_to, refuse_pipes
from anomalib_grad.report.predictions import Prediction

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else each worker syncs an environment under `uv run`
try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import ray.data
    from pyarrow.dataset import Dataset as ParquetDataset
    from pyarrow.dataset import dataset as open_parquet
    from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: install Ray Data with pip install 'anomalib-grad[ray]'.") from error

if TYPE_CHECKING:
    from anomalib.data import NumpyImageBatch

OBJECT_STORE = 128 * 2**20  # bytes; it transports only paths, not images
PREDICTION = dict(zip(Prediction._fields, (pa.string(), pa.float32(), pa.bool_(), pa.string()), strict=True))
SCHEMA = pa.schema({**PREDICTION, "map_path": pa.string(), "error": pa.string()})


class Place(NamedTuple):
    """File, folder or pattern on a local or remote file system."""

    filesystem: FileSystem
    scheme: str  # "s3://"; empty for this machine
    path: str

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Parse a local path, or a URI that pyarrow supports."""
        if "://" not in text:
            return cls(LocalFileSystem(), "", Path(text).resolve().as_posix())
        try:
            filesystem, path = FileSystem.from_uri(text)
        except pa.ArrowInvalid as error:
            raise SystemExit(
                f"{text} is not a URI that pyarrow supports ({error}); give a local path or s3://, gs://, ..."
            ) from error
        return cls(filesystem, text.partition("://")[0] + "://", path.rstrip("/"))

    def child(self, name: str) -> "Place":
        """Return a file or folder inside this folder."""
        return self._replace(path=f"{self.path}/{name}")

    def lies_in(self, folder: "Place") -> bool:
        """Return whether this is ``folder`` or inside it, judged by the path."""
        return self.scheme == folder.scheme and f"{self.path}/".startswith(f"{folder.path}/")

    def write(self, content: bytes) -> None:
        """Write a file."""
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(content)

    def write_whole(self, content: bytes) -> None:
        """Write a file under a hidden name, and rename it once it is complete."""
        folder, name = self.path.rsplit("/", 1)
        unfinished = self._replace(path=f"{folder}/.{name}")
        unfinished.write(content)
        self.filesystem.move(unfinished.path, self.path)

    def read(self) -> bytes:
        """Read a file."""
        with self.filesystem.open_input_stream(self.path) as stream:
            return stream.read()


def list_images(place: Place) -> list[str]:
    """List the images in a folder and its subfolders, or those that match a pattern; sorted, without hidden files.

    The masks in a folder of products are no images to judge; a pattern takes all that it matches.
    """
    kind = place.filesystem.get_file_info(place.path).type
    if kind == FileType.File:
        return [place.path]
    if kind == FileType.Directory and not place.scheme:
        below = (path.as_posix() for path in list_in_folder(place.path))
        return [path for path in below if not is_mask(PurePosixPath(path).relative_to(place.path))]
    if kind == FileType.Directory:
        entries = place.filesystem.get_file_info(FileSelector(place.path, recursive=True))
        names = {entry.path: PurePosixPath(entry.path).relative_to(place.path) for entry in entries if entry.is_file}
        return sorted(path for path, name in names.items() if has_image_name(name) and not is_mask(name))
    matches = ArrowFSWrapper(place.filesystem).glob(place.path, detail=True)
    files = (path for path, entry in matches.items() if entry["type"] == "file")
    fixed = PurePosixPath(re.split(r"[*?[]", place.path)[0].rpartition("/")[0])  # the folder before the first wildcard
    return sorted(path for path in files if not is_hidden(PurePosixPath(path).relative_to(fixed)))


# ------------------------------------------------------------------ in the workers


class Settings(NamedTuple):
    """Settings that every worker needs."""

    model: tuple[bytes, bytes]  # contents of .xml and .bin
    images: Place
    out: Place
    category: str | None
    maps: bool
    batch_size: int
    threads: int
    files: FileFormat


class Judge:
    """Ray actor with its own model, which predicts on the images of one table after another."""

    def __init__(self, settings: Settings) -> None:
        from anomalib_grad.deploy import CategoryOpenVINOInferencer  # noqa: PLC0415  # takes seconds

        self.settings = settings
        own_share = {
            "INFERENCE_NUM_THREADS": settings.threads,
            "ENABLE_CPU_PINNING": False,  # every worker would take the first cores
            "CACHE_DIR": "",  # no shared cache, which one could read while another writes
        }
        self.inferencer = CategoryOpenVINOInferencer(settings.model, device="CPU", config=own_share)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Predict on the images in a table of paths, write the rows to a Parquet file, and return them."""
        rows = [row for batch in self.read_ahead(table["path"].to_pylist()) for row in self.judge(batch)]
        judged = pa.Table.from_pylist(rows, SCHEMA)
        name = hashlib.sha256("\n".join(row["path"] for row in rows).encode()).hexdigest()[:16]
        pq.write_table(judged, parquet := io.BytesIO())
        self.settings.out.child("predictions").child(f"{name}.parquet").write_whole(parquet.getvalue())
        return judged

    def read_ahead(self, paths: list[str]) -> Iterator[list[tuple[str, bytes | OSError]]]:
        """Yield batches of files, and read the next batch during inference: object stores respond slowly."""
        size = self.settings.batch_size
        batches = [paths[start : start + size] for start in range(0, len(paths), size)]
        with ThreadPoolExecutor(size) as readers:
            coming = [readers.submit(self.read, path) for path in batches[0]]
            for batch, following in zip(batches, [*batches[1:], []], strict=True):
                contents = [file.result() for file in coming]
                coming = [readers.submit(self.read, path) for path in following]
                yield list(zip(batch, contents, strict=True))

    def read(self, path: str) -> bytes | OSError:
        """Read a file, or return the error."""
        try:
            if not self.settings.images.scheme:
                refuse_pipes(Path(path))
            return self.settings.images._replace(path=path).read()
        except OSError as error:
            return error

    def judge(self, files: list[tuple[str, bytes | OSError]]) -> Iterator[dict[str, Any]]:
        """Predict on a batch of files; consecutive images of the same size after decoding share a forward pass."""
        decoded = ((path, decode(content, self.inferencer.image_size, self.settings.files)) for path, content in files)
        for _, group in groupby(decoded, key=lambda item: getattr(item[1], "shape", None)):
            paths, images = zip(*group, strict=True)
            if isinstance(images[0], np.ndarray):
                prediction = self.inferencer.predict(np.stack(images), category=self.settings.category)
                yield from self.rows(paths, prediction)
            else:
                for path, error in zip(paths, images, strict=True):
                    yield {"path": self.name(path), "error": f"{type(error).__name__}: {error}"}

    def rows(self, paths: tuple[str, ...], prediction: "NumpyImageBatch") -> Iterator[dict[str, Any]]:
        """Yield the rows of images that shared a forward pass, after writing their maps."""
        nothing = [None] * len(paths)
        labels, names = prediction.pred_label, prediction.explanation
        columns = (
            prediction.pred_score.reshape(-1).tolist(),
            nothing if labels is None else labels.reshape(-1).tolist(),
            nothing if names is None else names,
            map(self.write_map, paths, prediction.anomaly_map) if self.settings.maps else nothing,
        )
        for path, score, label, category, map_path in zip(paths, *columns, strict=True):
            yield {**Prediction(self.name(path), score, label, category)._asdict(), "map_path": map_path}

    def name(self, path: str) -> str:
        """Return the name of an image in the table."""
        return self.settings.images.scheme + path

    def write_map(self, path: str, anomaly_map: np.ndarray) -> str:
        """Write an anomaly map (H, W) or (1, H, W) under its image's path, and return its path relative to OUT."""
        if not (anomaly_map.min() >= 0 and anomaly_map.max() <= 1):
            raise ValueError(
                "The model's anomaly maps have values outside [0, 1]; export it with normalisation, or omit --maps."
            )
        picture, png = Image.fromarray((255 * anomaly_map.squeeze()).round().astype(np.uint8)), io.BytesIO()
        picture.save(png, "PNG")
        place = self.settings.out.child("maps").child(path.lstrip("/") + ".png")
        place.filesystem.create_dir(str(PurePosixPath(place.path).parent), recursive=True)
        place.write(png.getvalue())
        return place.path.removeprefix(self.settings.out.path + "/")


def decode(content: bytes | OSError, size: tuple[int, int] | None, files: FileFormat) -> np.ndarray | Exception:
    """Decode a file as the inferencer does, to (H, W, 3) in [0, 1] at ``size``, or return the error."""
    if isinstance(content, OSError):
        return content
    try:
        with open_up_to(io.BytesIO(content), files.max_pixels) as image:
            return rgb_pixels(image, size, files.bits)
    except UnidentifiedImageError:
        return UnidentifiedImageError("the file is not an image in a format that Pillow reads")
    except Exception as error:  # noqa: BLE001  # every image format has failures of its own
        return error


# ------------------------------------------------------------------ around them


def read_model(path: Path) -> tuple[bytes, bytes]:
    """Read an OpenVINO model: the contents of its .xml and .bin files."""
    files = (path, path.with_suffix(".bin"))
    missing = [file for file in files if not file.is_file()]
    if path.suffix != ".xml" or missing:
        raise SystemExit(f"There is no OpenVINO model {path}; give the .xml of an export, with its .bin beside it.")
    return files[0].read_bytes(), files[1].read_bytes()


def check_category(category: str, model: tuple[bytes, bytes]) -> None:
    """Exit if the model does not know a category."""
    from anomalib_grad.deploy import read_categories, read_model  # noqa: PLC0415  # takes seconds, for this check alone

    known = read_categories(read_model(model))
    if category not in known:
        advice = f"choose one of {', '.join(known)}" if known else "it knows none, so give none"
        raise SystemExit(f"The model does not know the category {category!r}; {advice}.")


def claim(out: Place, model: tuple[bytes, bytes], name: str) -> None:
    """Create the folder of the results, which belong to one model; exit if it has results of another model."""
    digest = hashlib.sha256(b"".join(model)).hexdigest()
    note = out.child("model.json")
    try:
        owner = json.loads(note.read())
    except FileNotFoundError:
        out.filesystem.create_dir(out.child("predictions").path, recursive=True)
        note.write_whole(json.dumps({"model": name, "sha256": digest}).encode())
        return
    if owner["sha256"] != digest:
        raise SystemExit(f"{out.path} contains results of another model, {owner['model']}; choose another --out.")


def open_finished(out: Place) -> ParquetDataset:
    """Open the rows of all finished files, and remove unfinished files of an interrupted run."""
    folder = out.child("predictions")
    files = [PurePosixPath(entry.path) for entry in folder.filesystem.get_file_info(FileSelector(folder.path))]
    for path in files:
        if path.name.startswith("."):
            folder.filesystem.delete_file(str(path))
    finished = [str(path) for path in files if path.suffix == ".parquet" and not path.name.startswith(".")]
    return open_parquet(finished, schema=SCHEMA, filesystem=folder.filesystem, format="parquet")


def start_ray(args: argparse.Namespace, paths: pa.Table) -> None:
    """Join a cluster, or start Ray on this machine with only the resources that the workers need."""
    quiet: Any = {"logging_level": "WARNING", "log_to_driver": False}
    needed = args.workers * args.threads
    if args.address is None:
        store = OBJECT_STORE + 2 * paths.nbytes
        ray.init("local", num_cpus=needed, object_store_memory=store, include_dashboard=False, **quiet)
        return
    try:
        ray.init(args.address, **quiet)
    except ConnectionError as error:
        raise SystemExit(f"{error}; check --address, or set RAY_AUTH_MODE=token if Ray requires a token.") from error
    if (there := ray.cluster_resources().get("CPU", 0)) < needed:
        raise SystemExit(f"The workers need {needed} CPUs, but the cluster has {there:g}; reduce --workers.")


def judge_all(paths: pa.Table, settings: Settings, workers: int, rows_per_file: int) -> Iterator[pa.Table]:
    """Predict on images with Ray, and yield the table of each finished Parquet file."""
    rows = min(rows_per_file, -(-len(paths) // (4 * workers)))  # small enough to keep all workers busy to the end
    parts = [paths.slice(start, rows).combine_chunks() for start in range(0, len(paths), rows)]
    judged = ray.data.from_arrow(parts).map_batches(
        Judge,
        fn_constructor_args=(settings,),
        batch_size=None,  # one part per call
        batch_format="pyarrow",
        num_cpus=settings.threads,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    yield from judged.iter_batches(batch_size=None, batch_format="pyarrow")


def summarize(rows: ParquetDataset, out: str) -> None:
    """Print a summary of all rows, including those of earlier runs."""
    table = rows.to_table(columns=["category", "pred_label", "error"])
    readable = table.filter(pc.is_null(table["error"]))
    print(f"{out}: {len(table)} images, {len(table) - len(readable)} of them unreadable (column error)")
    counts = readable.group_by("category").aggregate([("pred_label", "sum"), ("pred_label", "count")])
    for row in sorted(counts.to_pylist(), key=lambda row: row["category"] or ""):
        anomalous, images = row["pred_label_sum"] or 0, row["pred_label_count"]
        print(f"{row['category'] or 'no category':24} {anomalous:>9} of {images:>9} anomalous")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported OpenVINO model, .xml")
    parser.add_argument(
        "images", metavar="input", help="folder, pattern in quotes, or URI of either: s3://, gs://, ..."
    )
    parser.add_argument("--out", required=True, help="folder or URI of the results")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes; default: CPU cores")
    parser.add_argument("--threads", type=positive, default=1, help="CPU cores for each worker")
    parser.add_argument("--batch-size", type=positive, default=8, help="images read and predicted together")
    parser.add_argument("--rows-per-file", type=positive, default=1000, help="most images that a stopped worker loses")
    parser.add_argument("--maps", action="store_true", help="write anomaly maps to OUT/maps")
    parser.add_argument("--category", help="product in all images; default: recognised")
    parser.add_argument("--bits", type=int, default=16, help="bits that 16-bit files use, as in training")
    parser.add_argument("--max-pixels", type=positive, help="largest file to read, in pixels; default: Pillow's limit")
    parser.add_argument("--address", help="Ray cluster to join; default: start Ray on this machine")
    return parser.parse_args()


def positive(text: str) -> int:
    """Parse a positive integer."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main() -> None:
    """Predict on the images that have no row yet, then print a summary."""
    args = parse_arguments()
    images, out = Place.parse(args.images), Place.parse(args.out)
    files = FileFormat(args.bits, args.max_pixels)
    model = read_model(args.model)
    if args.category is not None:
        check_category(args.category, model)
    found = list_images(images)
    if not found:
        raise SystemExit(f"There are no images in {args.images}; give a folder with images, or a pattern that matches.")
    if out.lies_in(images) or any(images._replace(path=path).lies_in(out) for path in found):
        raise SystemExit(f"{args.out} lies inside {args.images}: its maps would count as images; choose another --out.")
    claim(out, model, str(args.model))

    done = set(open_finished(out).to_table(columns=["path"])["path"].to_pylist())
    paths = pa.table({"path": pa.array([path for path in found if images.scheme + path not in done], pa.string())})
    print(f"{len(found)} images, {len(found) - len(paths)} of them finished in earlier runs")
    if len(paths):
        start = time.perf_counter()
        start_ray(args, paths)
        settings = Settings(
            model=model,
            images=images,
            out=out,
            category=args.category,
            maps=args.maps,
            batch_size=args.batch_size,
            threads=args.threads,
            files=files,
        )
        for _ in judge_all(paths, settings, args.workers, args.rows_per_file):
            pass
        print(f"{len(paths)} images in {time.perf_counter() - start:.0f} s, Ray's start included")
    summarize(open_finished(out), args.out)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped; run the same command again to resume.") from None
