# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Command line for thresholds: ``python -m anomalib_grad.thresholds --help``.

A command stands above all rooms: this file alone in the folder may import what builds on thresholds.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from anomalib_grad.files.refusals import message

WIDTH = 160
"""Columns of output that goes to a file or a pipe."""
MEASURES = {"--false-alarms", "--sensitivity", "--threshold"}
"""Options that take a number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default this process's; return the exit status: 0, or 1 after an error."""
    options = _parser().parse_args(_with_negative_numbers(sys.argv[1:] if arguments is None else arguments))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, highlight=False)
    try:
        options.run(options, console)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {message(error)}\n")
        return 1
    return 0


def _show(options: argparse.Namespace, console: Console) -> None:
    from anomalib_grad.adjustment import read_thresholds  # noqa: PLC0415  # anomalib takes long to import

    from .display import remarks, thresholds_table  # noqa: PLC0415

    thresholds = read_thresholds(options.model)
    console.print(thresholds_table(thresholds))
    for remark in remarks(thresholds):
        console.print(remark)


def _set(options: argparse.Namespace, console: Console) -> None:
    from anomalib_grad.adjustment import set_threshold  # noqa: PLC0415

    set_threshold(
        options.model,
        options.product,
        threshold=options.threshold,
        sensitivity=options.sensitivity,
        false_alarms=options.false_alarms,
    )
    _show(options, console)


def _fit(options: argparse.Namespace, console: Console) -> None:
    from anomalib_grad.adjustment import fit  # noqa: PLC0415

    fit(
        options.model,
        options.images,
        options.product,
        anomalous=options.anomalous,
        false_alarms=options.false_alarms,
        progress=True,
    )
    _show(options, console)


def _correct(options: argparse.Namespace, console: Console) -> None:
    from anomalib_grad.adjustment import correct  # noqa: PLC0415
    from anomalib_grad.adjustment.summary import in_words  # noqa: PLC0415
    from anomalib_grad.adjustment.verdicts import from_folders, read_verdicts  # noqa: PLC0415

    folders = options.false_alarms_folder, options.missed
    if (options.verdicts is None) is (folders == (None, None)):
        raise ValueError("Give either a folder or table of verdicts, or --false-alarms-folder, --missed or both.")
    if options.verdicts is None:
        verdicts = from_folders(*folders, options.product)
    else:
        verdicts = read_verdicts(options.verdicts, options.product)
    for line in in_words(correct(options.model, verdicts, write=not options.dry_run, progress=True)):
        console.print(line)


def _with_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """Attach numbers to their options: argparse takes ``-1e-3`` for another option."""
    words: list[str] = []
    for word in arguments:
        if words and words[-1] in MEASURES:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"give a number such as 0.01, not {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anomalib_grad.thresholds",
        description="Show and change the thresholds of a trained model in a checkpoint (.ckpt) or an export (OpenVINO "
        ".xml, ONNX .onnx, torch .pt).",
    )
    commands = parser.add_subparsers(required=True)

    show = commands.add_parser("show", help="show each product's threshold and its error rates on known images")
    show.set_defaults(run=_show)

    change = commands.add_parser("set", help="make a product's threshold stricter or more lenient")
    change.set_defaults(run=_set)
    measure = change.add_mutually_exclusive_group(required=True)
    measure.add_argument(
        "--false-alarms",
        type=_number,
        metavar="SHARE",
        help="share of normal images that may be called anomalous; 0.01 is one in a hundred",
    )
    measure.add_argument(
        "--sensitivity", type=_number, metavar="0..1", help="0.5 is the fitted threshold, 1 the strictest"
    )
    measure.add_argument("--threshold", type=_number, metavar="SCORE", help="threshold in the unit that `show` prints")

    fit = commands.add_parser("fit", help="fit a product's threshold on images from the line, which the model scores")
    fit.set_defaults(run=_fit)
    fit.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="images of good parts")
    fit.add_argument("--anomalous", type=Path, metavar="FOLDER", help="images of bad parts, if there are any")
    fit.add_argument(
        "--false-alarms",
        type=_number,
        metavar="SHARE",
        help="as for `set`; by default best F1 if --anomalous is given, else the rate promised before",
    )

    correct = commands.add_parser("correct", help="fit thresholds again with parts that were judged wrongly")
    correct.set_defaults(run=_correct)

    for command in (show, change, fit, correct):
        command.add_argument("model", type=Path, help="checkpoint or exported model")
    for command in (change, fit, correct):
        command.add_argument("--product", metavar="NAME", help="product name; omit it if the model has no products")
    correct.add_argument(
        "verdicts",
        type=Path,
        nargs="?",
        help="folder with false_alarms/ and missed/ for each product; or a table, such as predictions.csv or what "
        "examples/batch_inference.py writes, whose column right_label holds normal, anomalous or nothing",
    )
    correct.add_argument("--false-alarms-folder", type=Path, metavar="FOLDER", help="good parts that were stopped")
    correct.add_argument("--missed", type=Path, metavar="FOLDER", help="bad parts that passed")
    correct.add_argument("--dry-run", action="store_true", help="report what would change, but change nothing")
    return parser


if __name__ == "__main__":
    logging.disable(logging.INFO)  # a trainer's messages do not belong in the output
    warnings.simplefilter("ignore", FutureWarning, append=True)  # meant for the developers of other packages
    sys.exit(main())
