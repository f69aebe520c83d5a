# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""User-facing errors: say in one sentence what is wrong and what to do, and tell them apart from bugs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dis import opmap
from pathlib import Path
from urllib.error import URLError

PACKAGE = __name__.partition(".")[0]
REFUSALS = (OSError, TypeError, ValueError)
"""Built-in exceptions that this package raises for problems that a user can fix."""
PATH_CHECKS = {"anomalib.data.utils.image", "anomalib.data.utils.path"}
"""Modules of anomalib that report what is wrong with a path, such as that of images to predict on."""
FOREIGN_LETTERS = (
    "anomalib's own classes take English letters only: rename it, or read it by --data MultiCategory or, to predict, "
    "--data anomalib_grad.data.PredictImages --data.path FOLDER."
)
GIVE_RIGHT = "give this user permission to read it"
_SENTENCE = f"{PACKAGE}_sentence"


def reword(error: BaseException, sentence: str) -> None:
    """Replace the message of another library's error by a sentence that says what is wrong."""
    if isinstance(error, OSError) and error.strerror is not None:  # printed in place of its arguments
        error.strerror = sentence
        del error.filename  # the sentence names it
    else:
        error.args = (sentence,)
    if isinstance(error, URLError):
        error.reason = sentence
    if isinstance(error, SyntaxError):  # how Pillow reports damaged PNG files
        error.msg = sentence
    vars(error)[_SENTENCE] = sentence


def sentence_of(error: BaseException) -> str | None:
    """Return the message of an error that was reworded, or that a ``raise`` statement made.

    The statement must be in this package or in anomalib's path checks. All other errors give ``None``: they need their
    traceback.
    """
    if _SENTENCE in vars(error):
        return str(vars(error)[_SENTENCE])
    ours = isinstance(error, REFUSALS) or type(error).__module__.partition(".")[0] == PACKAGE
    if not (ours and _was_stated(error)):
        return None
    said = message(error)
    return f"{said}; {FOREIGN_LETTERS}" if said.startswith("Path contains non-printable characters") else said


def message(error: BaseException) -> str:
    """Return an error's message without the operating system's error number."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


@contextmanager
def explain_permission_errors() -> Iterator[None]:
    """Name what a block may not read, which may be a folder above the path that the operating system names.

    Raises:
        PermissionError: In place of the operating system's error; says what to do.
    """
    try:
        yield
    except PermissionError as error:
        if error.filename is None:  # already named
            raise
        locked = locked_at(error.filename)
        kind = "folder" if locked.is_dir() else "file"
        raise PermissionError(error.errno, f"cannot read {kind} '{locked}': permission denied; {GIVE_RIGHT}") from error


def locked_at(path: str | Path) -> Path:
    """Find what blocks access to a path: the path itself, or the lowest folder above it that is visible."""
    return next(one for one in (Path(path), *Path(path).absolute().parents) if os.path.exists(one))  # noqa: PTH110


def check_names_are_text(names: Iterable[object], argument: str) -> None:
    """Check product names given as an argument: YAML reads 7 and 007 as numbers, and no as false.

    Raises:
        ValueError: If a name is not text; names the first.
    """
    other = [name for name in names if not isinstance(name, str)]
    if other:
        raise ValueError(f"{argument} has {other[0]!r}, which is not text; put the product's name in quotes")


def enumerated(names: Iterable[str], most: int = 5) -> str:
    """Join names for a message; beyond ``most`` names, only count the rest."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, noun: str) -> str:
    """Write a number of things: ``"1 image"``, ``"2 images"``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _was_stated(error: BaseException) -> bool:
    """Tell whether a ``raise`` statement of this package or of the path checks made the error, not a failed call."""
    last = error.__traceback__
    if last is None:
        return False
    while last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__", "")
    own = module.partition(".")[0] == PACKAGE or module in PATH_CHECKS
    return own and last.tb_frame.f_code.co_code[last.tb_lasti] == opmap["RAISE_VARARGS"]
