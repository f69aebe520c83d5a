# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Refusals are told from faults: a fault's traceback must never be kept from who has to find it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from anomalib.data.utils.path import validate_path
from PIL import Image

from anomalib_grad.data import PredictImages
from anomalib_grad.files.atomic import cannot_write, writing
from anomalib_grad.files.refusals import FOREIGN_LETTERS, reword, sentence_of
from anomalib_grad.plugin.command_line import nearest, shorten_refusals


def raised(fail: Callable[[], object]) -> Exception:
    try:
        fail()
    except Exception as error:  # noqa: BLE001  # whatever it is
        return error
    return pytest.fail("nothing was raised")


def refuse_a_folder() -> None:
    with writing(Path("/nowhere/file")):
        pass


def test_a_refusal_is_its_sentence() -> None:
    assert sentence_of(raised(refuse_a_folder)) == "there is no folder '/nowhere' to write 'file' to; create it."


@pytest.mark.parametrize(
    "fail",
    [
        lambda: nearest("name", None),  # type: ignore[arg-type]  # a call within this package that fails
        lambda: cannot_write(Path(), OSError(), "setting", "more"),  # type: ignore[call-arg]
        lambda: int("many"),
        lambda: (_ for _ in ()).throw(ValueError("raised by others")),
    ],
)
def test_a_fault_is_none_whatever_its_type(fail: Callable[[], object]) -> None:
    assert sentence_of(raised(fail)) is None


@pytest.mark.parametrize(
    "error", [raised(lambda: int("x")), raised(lambda: Path("/nowhere").read_text()), SyntaxError("broken")]
)
def test_an_error_of_others_is_a_refusal_once_it_was_reworded(error: Exception) -> None:
    reword(error, "a.png is damaged; replace it.")
    assert sentence_of(error) == "a.png is damaged; replace it."
    assert str(error).endswith("a.png is damaged; replace it.")


def test_a_path_with_letters_that_anomalib_does_not_take_gets_advice(tmp_path: Path) -> None:
    folder = tmp_path / "Prüfung"
    folder.mkdir()
    sentence = sentence_of(raised(lambda: validate_path(folder)))
    assert sentence == f"Path contains non-printable characters: {folder}; {FOREIGN_LETTERS}"
    Image.new("RGB", (8, 8)).save(folder / "ü.png")
    assert len(PredictImages(folder)) == 1


def test_of_a_refusal_nothing_but_sentence_and_notes_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: faults.append(error))
    shorten_refusals()
    shorten_refusals()
    refusal, fault = raised(refuse_a_folder), raised(lambda: int("many"))
    refusal.add_note("Go on with: this.")
    for error in (refusal, fault):
        sys.excepthook(type(error), error, error.__traceback__)
    sentence = "error: there is no folder '/nowhere' to write 'file' to; create it."
    assert capsys.readouterr().err == f"{sentence}\nGo on with: this.\n"
    assert faults == [fault]
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "error: stopped by Ctrl-C before its end; start it again.\n"
    assert faults == [fault]
