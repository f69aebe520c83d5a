# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Killed anywhere, the same command goes on, and its results are those of a run that nothing stopped."""

import os
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from anomalib_grad.files.checkpoint_io import WholeCheckpointIO
from whole_run import END, PHASES, Process, run

pytestmark = pytest.mark.slow

EPOCHS = 8
KILLS = {"fill": 2, "train": 5, "test": 2, "export": 1}
ROUNDS = int(os.environ.get("ANOMALIB_GRAD_KILL_ROUNDS", "1"))
"""Each round kills a run ten times, at moments of its own."""


class Uninterrupted(NamedTuple):
    folder: Path
    seconds: dict[str, float]
    """How long each phase took."""


@pytest.fixture(scope="module")
def uninterrupted(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = Process(run, shop, folder, EPOCHS, log=folder / "log")
    began = {}
    for phase in (*PHASES, END):
        process.wait_for(phase)
        began[phase] = time.monotonic()
    process.let_go()
    ends = list(began.values())[1:]
    return Uninterrupted(folder, {phase: end - began[phase] for phase, end in zip(PHASES, ends, strict=True)})


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"weights/epoch={EPOCHS - 1:03d}.ckpt", weights_only=True)["state_dict"]


def assert_same_results(one: Path, other: Path) -> None:
    ours, theirs = last_weights(one), last_weights(other)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key].nan_to_num(), theirs[key].nan_to_num())] == []
    for name in ("results/Grad/*/latest/per_category.json", "weights/openvino/model.bin", "weights/openvino/model.xml"):
        (ours_file,), (theirs_file,) = one.glob(name), other.glob(name)
        assert ours_file.read_bytes() == theirs_file.read_bytes(), name


@pytest.mark.parametrize("kill_round", range(ROUNDS))
def test_a_run_killed_ten_times_ends_as_one_that_nothing_stopped(
    shop: Path, uninterrupted: Uninterrupted, tmp_path: Path, kill_round: int
) -> None:
    moments = random.Random(kill_round)  # noqa: S311  # no secret
    for phase in PHASES:
        for _ in range(KILLS[phase]):
            process = Process(run, shop, tmp_path, EPOCHS, log=tmp_path / "log")
            if process.reaches(phase):  # a training that goes on from its last epoch does not train
                parts = KILLS[phase] if phase == "train" else 1  # what a kill leaves of a training need not be repeated
                time.sleep(moments.random() * uninterrupted.seconds[phase] / parts)
            process.kill()
    Process(run, shop, tmp_path, EPOCHS, log=tmp_path / "log").finish()
    assert_same_results(uninterrupted.folder, tmp_path)
    assert not list(tmp_path.glob("cache/*.unfinished"))


def save_until_killed(target: Path, value: float, last_event: int, note: object) -> None:
    """Save a checkpoint; die at one of the events in which a file is opened, renamed or removed."""
    left = last_event

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"} and str(target.parent) in str(arguments):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)

    checkpoint = holding(value)
    sys.addaudithook(count)
    WholeCheckpointIO().save_checkpoint(checkpoint, target)


def holding(value: float) -> dict[str, Any]:
    """The least that a checkpoint has, with weights of one value."""
    return {"state_dict": {"weight": torch.full((1000,), value)}, "pytorch-lightning_version": "2.6.0"}


def test_killed_at_any_step_of_writing_a_checkpoint_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "weights/model.ckpt"
    WholeCheckpointIO().save_checkpoint(holding(0.0), target)
    found = []
    for event in range(20):
        process = Process(save_until_killed, target, 1.0 + event, event, log=tmp_path / "log")
        finished = process.hear() == END
        weight = WholeCheckpointIO().load_checkpoint(target)["state_dict"]["weight"]
        assert len(weight.unique()) == 1
        found.append(weight[0].item())
        if finished:
            process.let_go()
            break
    assert finished
    assert len(found) > 3
    assert found[-1] == 1.0 + event
    assert 0.0 in found
