# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Errors that say in one sentence what is wrong and what to do, told from faults of the program."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dis import opmap
from pathlib import Path
from urllib.error import URLError

PACKAGE = __name__.partition(".")[0]
REFUSALS = (OSError, TypeError, ValueError)
"""What this package raises of Python's own kinds for something that a user can change."""
PATH_CHECKS = {"anomalib.data.utils.image", "anomalib.data.utils.path"}
"""Modules of anomalib that say what is wrong with a path, such as that of images to predict on."""
GIVE_RIGHT = "give this user the right to read it"
_SENTENCE = f"{PACKAGE}_sentence"


def reword(error: BaseException, sentence: str) -> None:
    """Give an error of another library a sentence that says what is wrong, in place of its message."""
    if isinstance(error, OSError) and error.strerror is not None:  # which it prints in place of its arguments
        error.strerror = sentence
        del error.filename  # the sentence has it
    else:
        error.args = (sentence,)
    if isinstance(error, URLError):
        error.reason = sentence
    if isinstance(error, SyntaxError):  # how Pillow reports damaged PNG files
        error.msg = sentence
    vars(error)[_SENTENCE] = sentence


def sentence_of(error: BaseException) -> str | None:
    """Give what a refusal says: an error that was reworded, or that a ``raise`` statement made.

    That is one of this package, or of anomalib's checks of paths; ``None`` for whatever else goes wrong, there or
    elsewhere, of which the traceback is needed.
    """
    if _SENTENCE in vars(error):
        return str(vars(error)[_SENTENCE])
    ours = isinstance(error, REFUSALS) or type(error).__module__.partition(".")[0] == PACKAGE
    return message(error) if ours and _was_stated(error) else None


def message(error: BaseException) -> str:
    """Give an error's message without the number that the operating system has for it."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


@contextmanager
def permitted() -> Iterator[None]:
    """Name what a block may not read, which may be a folder above the one that the operating system names.

    Raises:
        PermissionError: In the place of one of the operating system; says what to do.
    """
    try:
        yield
    except PermissionError as error:
        if error.filename is None:  # it is named already
            raise
        locked = locked_at(error.filename)
        kind = "folder" if locked.is_dir() else "file"
        raise PermissionError(error.errno, f"{kind} '{locked}' may not be read; {GIVE_RIGHT}") from error


def locked_at(path: str | Path) -> Path:
    """Find what keeps a path from being read: itself, or the lowest of the folders above it that can be seen."""
    return next(one for one in (Path(path), *Path(path).absolute().parents) if os.path.exists(one))  # noqa: PTH110


def enumerated(names: Iterable[str], most: int = 5) -> str:
    """Join names for a message, of many the first ones."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _was_stated(error: BaseException) -> bool:
    """Tell whether an error began at such a ``raise``, not in something that was called there and failed."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = "" if last is None else last.tb_frame.f_globals.get("__name__", "")
    if last is None or (module.partition(".")[0] != PACKAGE and module not in PATH_CHECKS):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] == opmap["RAISE_VARARGS"]
