# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Several of anomalib's command lines in one fresh process, which takes longer to import than most of them to run."""

COMMAND_LINES = """
import contextlib, gc, io, json, sys
gc.disable()  # while all is imported, which is no garbage
from anomalib.cli.cli import main
gc.freeze()
gc.enable()
answers = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["anomalib", *arguments]
    printed, failed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(failed):
        try:
            main()
            code = 0
        except SystemExit as leave:
            code = leave.code
        except Exception:
            sys.excepthook(*sys.exc_info())
            code = 1
    answers.append([code, printed.getvalue(), failed.getvalue()[-20_000:]])
print(json.dumps({"answers": answers}))
"""
"""Code that takes the commands' arguments as JSON; its last line has the exit code, output and errors of each."""
