# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Command line of the checkpoint conversion: ``python -m anomalib_grad.checkpoint --help``."""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from anomalib_grad.backbone.weights import BackboneWeightsError
from anomalib_grad.files.refusals import message

_THRESHOLDS = """\
It has no thresholds yet, because the authors' files contain none. Fit them on validation images before testing, because
anomalib's own AUROC saturates on raw scores:
    model = Grad.load_from_checkpoint({target!r})
    engine.validate(model, datamodule=datamodule)
    engine.trainer.save_checkpoint("validated.ckpt")
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments``, by default the process's; return the exit status: 0, or 1 after an error."""
    options = _parser().parse_args(arguments)
    try:
        sys.stdout.write(_convert(options) if options.command == "convert" else _to_authors(options))
    except (ValueError, OSError, BackboneWeightsError) as error:
        sys.stderr.write(f"error: {message(error)}\n")
        return 1
    return 0


def _convert(options: argparse.Namespace) -> str:
    from .from_authors import convert  # noqa: PLC0415  # anomalib takes long to import

    if options.pre_trained is not None and options.backbone is None:
        raise ValueError("--pre-trained requires --backbone: name the backbone that the weights belong to.")
    model = convert(
        options.source,
        options.target,
        backbone=options.backbone,
        image_size=tuple(options.image_size) if options.image_size else None,
        pre_trained=True if options.pre_trained is None else options.pre_trained,
    )
    configuration = model.model.configuration
    facts = ", ".join(f"{name} {configuration[name]}" for name in ("backbone", "image_size", "fusion", "num_blocks"))
    return f"Wrote {options.target}: {facts}.\n" + _THRESHOLDS.format(target=str(options.target))


def _to_authors(options: argparse.Namespace) -> str:
    from .to_authors import to_authors  # noqa: PLC0415  # anomalib takes long to import

    notes = to_authors(options.source, options.target)
    return "".join([f"Wrote {options.target}.\n", *(f"The authors' code differs: {note}\n" for note in notes)])


def _pre_trained(text: str) -> bool | Path:
    return {"true": True, "false": False}.get(text.lower(), Path(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anomalib_grad.checkpoint",
        description="Convert checkpoints of the authors' code to Grad's and back.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    convert = commands.add_parser("convert", help="convert the authors' .pth.tar file to a checkpoint of Grad")
    convert.add_argument("source", type=Path, help="file that the authors' trainer saved")
    convert.add_argument("target", type=Path, help="checkpoint to write (.ckpt)")
    convert.add_argument("--backbone", metavar="NAME", help="timm model to use instead of the backbone in the file")
    convert.add_argument(
        "--pre-trained",
        type=_pre_trained,
        metavar="true|false|FILE",
        help="weights of --backbone: timm's, random ones, or those in a local file (default: true)",
    )
    convert.add_argument(
        "--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="in pixels, if the file does not record it"
    )

    back = commands.add_parser("to-authors", help="convert a checkpoint of Grad to the authors' tensor names")
    back.add_argument("source", type=Path, help="checkpoint of Grad (.ckpt)")
    back.add_argument("target", type=Path, help="file to write (.pth.tar)")
    return parser


if __name__ == "__main__":
    logging.disable(logging.INFO)  # advice on training by a trainer that only saves
    warnings.simplefilter("ignore", FutureWarning, append=True)  # meant for developers of other packages
    sys.exit(main())
