# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""One command from images to an exported model that goes on where it was stopped, in a process that can be killed."""

import gc
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from anomalib_grad.data import MultiCategory
from anomalib_grad.lightning_model import Grad
from helpers import TINY

ARGUMENTS: dict[str, Any] = {**TINY, "backbone": "grad_tiny", "pre_trained": True}
"""A Grad whose export takes half of the time of other small ones."""
PHASES = ("fill", "train", "test", "export")
END = "end"
TIMEOUT = 300.0
"""Seconds that a process may take for a phase on a busy machine."""
PRELOAD = ["anomalib.callbacks", "anomalib.engine", "anomalib_grad.data", "anomalib_grad.lightning_model", "onnxscript"]
"""What takes long to import, once for all processes; not this module, which is on the path of pytest alone."""


class NotePhase(Callback):
    """Says when features are there and training begins."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note("train")


def run(shop: Path, folder: Path, epochs: int, note: Callable[[str], None]) -> None:
    """Train with a checkpoint for each epoch, test, report and export to OpenVINO; the same call resumes.

    Args:
        shop: Folder of the products.
        folder: Where caches, checkpoints, results and the export go.
        epochs: Epochs of the whole training.
        note: Told the name of each phase when it begins.
    """
    seed_everything(0)
    note("fill")
    model = Grad(**ARGUMENTS, feature_cache="disk", cache={"folder": folder / "cache"})
    data = MultiCategory(root=shop, train_batch_size=4, eval_batch_size=4, num_workers=0)
    every_epoch = ModelCheckpoint(folder / "weights", "{epoch:03d}", save_top_k=-1, enable_version_counter=False)
    engine = Engine(
        callbacks=[every_epoch, NotePhase(note)],
        default_root_dir=folder / "results",
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
    )
    last = max(folder.glob("weights/*.ckpt"), default=None)
    engine.fit(model, datamodule=data, ckpt_path=last)
    note("test")
    engine.test(model, datamodule=data)
    note("export")
    model.to_openvino(folder)


class Process:
    """A process forked from one that has imported everything; what it prints goes to ``log``.

    Args:
        function: Function of a module that can be imported, called with ``arguments`` and, last, a function that
            sends a word to the parent.
        arguments: Plain data.
        log: File to append to.
    """

    def __init__(self, function: Callable[..., None], *arguments: object, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.connection, theirs = context.Pipe()
        self.log = log
        self.process = context.Process(target=_child, args=(theirs, log, function, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self, timeout: float = TIMEOUT) -> str | None:
        """Wait some seconds for the next word; ``None`` if the process has ended."""
        assert self.connection.poll(timeout), f"nothing in {timeout} s:\n{self.log.read_text()[-3000:]}"
        try:
            return self.connection.recv()
        except EOFError:
            return None

    def reaches(self, word: str, timeout: float = TIMEOUT) -> bool:
        """Wait until the process sends ``word``; False if its work ends without, fail if the process does."""
        heard: str | None = ""
        while heard not in {word, END}:
            heard = self.hear(timeout)
            assert heard is not None, f"ended before {word!r}:\n{self.log.read_text()[-3000:]}"
        return heard == word

    def wait_for(self, word: str, timeout: float = TIMEOUT) -> None:
        """Wait until the process sends ``word``; fail with its output if it does not."""
        assert self.reaches(word, timeout), f"no {word!r}:\n{self.log.read_text()[-3000:]}"

    def kill(self) -> None:
        """Kill the process as a power cut or the out-of-memory killer would."""
        self.process.kill()
        self.process.join(TIMEOUT)

    def finish(self, timeout: float = TIMEOUT) -> None:
        """Wait for the end of ``function`` and let the process go."""
        self.wait_for(END, timeout)
        self.let_go()

    def let_go(self) -> None:
        """Let a process end that has done its work."""
        self.connection.send(END)
        self.process.join(TIMEOUT)
        assert self.process.exitcode == 0, self.log.read_text()[-3000:]


def _child(connection: Connection, log: Path, function: Callable[..., None], *arguments: object) -> None:
    """Run ``function``, then stay until the parent sends a word, so that a late kill finds the process alive."""
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is no garbage
    function(*arguments, connection.send)
    connection.send(END)
    connection.recv()
