# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What anomalib's command line prints of an error that ends it: of a refusal its sentence, of a fault the traceback."""

import sys
from types import TracebackType

from anomalib_grad.files.refusals import sentence_of


def shorten_refusals() -> None:
    """Have Python print the sentence of a refusal alone; the exit status is that of any error, 1."""
    print_traceback = sys.excepthook
    if print_traceback.__module__ == __name__:
        return

    def print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = sentence_of(error)
        if sentence is None:
            print_traceback(kind, error, trace)
        else:
            sys.stderr.write("\n".join([f"error: {sentence}", *getattr(error, "__notes__", ())]) + "\n")

    sys.excepthook = print_error
