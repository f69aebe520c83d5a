# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Run an exported model on the images of a camera, a video, or a folder that receives new files, as they arrive.

python examples/watch.py results/weights/openvino/model.xml ./incoming --alarms ./alarms
python examples/watch.py results/weights/openvino/model.xml 0 --category bottle   # the first camera that OpenCV finds

Prints one line per frame: heatmap, verdict, score, product, and the time from its arrival to its result. Images of
alarms, with an overlaid heatmap, are saved to --alarms. Ctrl-C stops it and prints a summary.
"""

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

signal.signal(signal.SIGINT, lambda *_: sys.exit("Stopped before the first frame."))  # imports take seconds

# ruff: noqa: E402
import cv2
import numpy as np
from anomalib.visualization.image.functional import overlay_image, visualize_anomaly_map
from PIL import Image
from rich.console import Console
from rich.text import Text

from anomalib_grad.data.pixels import resized
from anomalib_grad.deploy import CategoryOpenVINOInferencer, FrameResult

signal.signal(signal.SIGINT, signal.default_int_handler)

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
CELLS = (1, 16)  # size of the heatmap in the terminal


def whole_files(folder: Path, settle: float, once: bool) -> Iterator[Path]:
    """Yield each image file of a folder once it has not changed for ``settle`` seconds, in order of arrival.

    This waits for files that are still being written. A damaged file is yielded as well, and inference reports it by
    name. A file that changes later is yielded again: its writer had paused, or a camera has overwritten its last image.
    """
    given: dict[Path, tuple[int, int]] = {}
    states: dict[Path, tuple[tuple[int, int], float]] = {}
    while True:
        files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
        given, waiting = {file: given[file] for file in files if file in given}, False
        for file in sorted(files):
            try:
                status = file.stat()
            except FileNotFoundError:  # removed in the meantime
                continue
            state, now = (status.st_size, status.st_mtime_ns), time.monotonic()
            if given.get(file) == state:
                continue
            waiting = True
            if states.get(file, (None, now))[0] != state:
                states[file] = (state, now)
            elif now - states[file][1] >= settle:
                given[file] = state
                del states[file]
                yield file
        if once and not waiting:
            return
        time.sleep(min(settle, 0.1))


def open_camera(source: str) -> cv2.VideoCapture:
    """Open a camera by its number, or a video by its path.

    Raises:
        SystemExit: If OpenCV cannot open it.
    """
    camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not camera.isOpened():
        raise SystemExit(f"error: {source} is neither a folder nor a camera or video that OpenCV opens; give another.")
    return camera


def camera_frames(camera: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Yield the frames of a camera in BGR order until it has no more."""
    try:
        while (answer := camera.read())[0]:
            yield answer[1]
    finally:
        camera.release()


def line(name: str, result: FrameResult) -> Text:
    """Render a result for the terminal."""
    if result.prediction is None:
        return Text(f"{name}: {result.error}", style="yellow")
    prediction = result.prediction
    cells = resized(np.atleast_3d(prediction.anomaly_map.squeeze()).astype(np.float32), CELLS).ravel()
    text = Text()
    for value in (255 * cells.clip(0, 1)).astype(int):
        text.append("█", style=f"rgb({value},{min(value, 255 - value)},{255 - value})")
    bad = bool(prediction.pred_label.item())
    text.append(f" {'ALARM' if bad else 'good '} {prediction.pred_score.item():.3f}", style="red" if bad else "green")
    product = prediction.explanation[0] if prediction.explanation else ""
    return text.append(f" {product:<12} {1000 * result.seconds:5.0f} ms  {name}", style="default")


def save_alarm(path: Path, result: FrameResult) -> None:
    """Save the model's input image, and beside it the same image with an overlaid heatmap."""
    seen = np.atleast_3d(result.prediction.image.squeeze(0))
    picture = Image.fromarray((255 * seen).round().astype(np.uint8))
    heatmap = visualize_anomaly_map(result.prediction.anomaly_map.squeeze(), colormap=True, normalize=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    both = Image.new("RGB", (2 * picture.width, picture.height))
    both.paste(picture, (0, 0))
    both.paste(overlay_image(picture, heatmap.resize(picture.size), alpha=0.5).convert("RGB"), (picture.width, 0))
    both.save(path)


def main() -> None:
    """Watch until the source ends or the user presses Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported model: .xml or .onnx")
    parser.add_argument("source", help="a folder, the number of a camera, or a video")
    parser.add_argument("--alarms", type=Path, default=Path("alarms"), help="folder for images of alarms")
    parser.add_argument("--category", help="product in all frames; default: recognised")
    parser.add_argument("--bits", type=int, default=16, help="bits that 16-bit files use")
    parser.add_argument("--max-pixels", type=int, help="largest file to read, in pixels; default: Pillow's limit")
    parser.add_argument("--in-flight", type=int, default=4, help="frames processed at a time")
    parser.add_argument("--settle", type=float, default=0.5, help="seconds after which a file counts as written")
    parser.add_argument("--once", action="store_true", help="stop when all present files have been processed")
    args = parser.parse_args()

    folder = Path(args.source)
    console, verdicts, seconds = Console(highlight=False, soft_wrap=True), Counter[str](), []
    try:
        camera = None if folder.is_dir() else open_camera(args.source)
        told: dict[str, Any] = {"bits": args.bits, "channel_order": "BGR", "max_pixels": args.max_pixels}
        try:
            inferencer = CategoryOpenVINOInferencer(args.model, device="CPU", **told)
            frames = camera_frames(camera) if camera else whole_files(folder, args.settle, args.once)
            results = inferencer.stream(frames, in_flight=args.in_flight, category=args.category)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(f"error: {error}") from error
        with closing(results) as stream:
            for number, result in enumerate(stream):
                name = result.frame.name if isinstance(result.frame, Path) else f"frame {number}"
                console.print(line(name, result))
                alarm = result.prediction is not None and bool(result.prediction.pred_label.item())
                verdicts["unreadable" if result.error else "alarms" if alarm else "good"] += 1
                seconds.append(result.seconds)
                if alarm:
                    save_alarm(args.alarms / f"{number:06d}_{name.replace(' ', '_')}.png", result)
    except KeyboardInterrupt:
        pass
    counts = ", ".join(f"{verdicts[kind]} {kind}" for kind in ("good", "alarms", "unreadable"))
    console.print(
        f"{sum(verdicts.values())} frames: {counts}; median {1000 * np.median(seconds or [0]):.0f} ms a frame."
    )


if __name__ == "__main__":
    main()
