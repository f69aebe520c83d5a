# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Errors in arguments: one sentence for this package's classes, jsonargparse's own words for those of others."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule
from jsonargparse import Namespace

from anomalib_grad import register
from anomalib_grad.files.refusals import sentence_of
from anomalib_grad.plugin.command_line import CommandLineParser


class Base: ...


@dataclass
class Training:
    """Constants of a training.

    Args:
        learning_rate: Any.
        steps: Any.
    """

    learning_rate: float = 0.1
    steps: int | None = None

    def __post_init__(self):
        if self.steps == 0:
            raise ValueError("steps must be at least 1, got 0.")


TRAINING = Training()


class Ours(Base):
    def __init__(
        self,
        backbone: str = "tiny",
        size: tuple[int, int] = (4, 4),
        sizes: tuple[int, int] | None = None,
        training: Training = TRAINING,
        part: Base | None = None,
        products: Sequence[str] | None = None,
    ) -> None:
        if backbone == "faulty":
            int(backbone)
        if backbone != "tiny":
            raise ValueError(f"unknown backbone {backbone!r}; choose tiny.")
        self.backbone = backbone


class Theirs(Base):
    def __init__(self, backbone: str = "tiny") -> None:
        if backbone != "tiny":
            raise ValueError(f"unknown backbone {backbone!r}")


@pytest.fixture
def modules(monkeypatch):
    """Importable places for the classes: one in this package, one elsewhere."""
    monkeypatch.setattr(Training, "__module__", "anomalib_grad.example")
    monkeypatch.setitem(globals(), "__name__", "anomalib_grad.example")  # where what is raised here is raised
    for path, member in {"anomalib_grad.example": Ours, "another_package": Theirs}.items():
        module = ModuleType(path)
        monkeypatch.setattr(member, "__module__", path)
        setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, path, module)


def parse(*arguments):
    parser = CommandLineParser()
    commands = parser.add_subcommands()
    train = CommandLineParser()
    train.add_argument("--config", action="config")
    train.add_subclass_arguments(Base, "model", required=True)
    commands.add_subcommand("train", train)
    return parser.instantiate_classes(parser.parse_args(["train", *arguments]))


OURS = "--model=anomalib_grad.example.Ours"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("bakcbone=x", "Ours has no argument --model.bakcbone; did you mean --model.backbone?"),
        ("zzz=x", "Ours has no argument --model.zzz; add -h -v to the command to list them."),
        (
            "training.learning_rte=1",
            "Ours has no argument --model.training.learning_rte; did you mean --model.training.learning_rate?",
        ),
        ("learning_rate=1", "Ours has no argument --model.learning_rate; did you mean --model.training.learning_rate?"),
        ("size=many", "--model.size cannot be 'many'; it takes two whole numbers, such as [224, 224]."),
        ("size=320", "--model.size cannot be '320'; it takes two whole numbers, such as [320, 320]."),
        ("sizes=320", "--model.sizes cannot be '320'; it takes two whole numbers, such as [320, 320]."),
        ("training.steps=many", "--model.training.steps cannot be 'many'; it takes a whole number or null."),
        (
            "training={steps:3}",
            "--model.training cannot be '{steps:3}'; it takes settings as '{name: value}', with a space after each "
            "colon, or a file of settings.",
        ),
        ("training.learning_rate=high", "--model.training.learning_rate cannot be 'high'; it takes a number."),
        ("products=[7]", "--model.products cannot be 7, which is not text; put it in quotes to make it text."),
        ("products=[a, no]", "--model.products cannot be False, which is not text; put it in quotes to make it text."),
        ("products={a: b}", "--model.products cannot be \"{'a': 'b'}\"; it takes a list of texts or null."),
        ("backbone=smal", "unknown backbone 'smal'; choose tiny."),
        ("training.steps=0", "steps must be at least 1, got 0."),
    ],
)
def test_one_sentence_is_all_that_is_printed(modules, capsys, given, sentence):
    with pytest.raises(SystemExit) as stop:
        parse(OURS, f"--model.{given}")
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("size=many", "--model.part.size cannot be 'many'; it takes two whole numbers, such as [224, 224]."),
        ("bakcbone=x", "Ours has no argument --model.part.bakcbone; did you mean --model.part.backbone?"),
    ],
)
def test_an_argument_of_a_class_within_a_class_is_named_in_full(modules, capsys, given, sentence):
    with pytest.raises(SystemExit):
        parse(OURS, "--model.part=anomalib_grad.example.Ours", f"--model.part.{given}")
    assert capsys.readouterr().err == f"error: {sentence}\n"
    with pytest.raises(SystemExit):
        parse(OURS, "--model.part=another_package.Theirs", f"--model.part.{given}")
    assert "Option '" + given.partition("=")[0] + "' is not accepted" in capsys.readouterr().err


def test_a_fault_in_a_constructor_keeps_its_traceback(modules, capsys):
    with pytest.raises(ValueError, match="invalid literal") as error:
        parse(OURS, "--model.backbone=faulty")
    assert sentence_of(error.value) is None
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("{bakcbone: x}", "Ours has no argument --model.bakcbone; did you mean --model.backbone?"),
        (
            "{training: {learning_rte: 1}}",
            "Ours has no argument --model.training.learning_rte; did you mean --model.training.learning_rate?",
        ),
        ("{backbone: 7}", "--model.backbone cannot be 7, which is not text; put it in quotes to make it text."),
        ("{training: {steps: many}}", "--model.training.steps cannot be 'many'; it takes a whole number or null."),
        *(
            (
                f"{{training: {value}}}",
                f"--model.training cannot be '{shown}'; it takes settings as '{{name: value}}', with a space after "
                f"each colon, or a file of settings.",
            )
            for value, shown in (("4", "4"), ("null", "None"), ("[4]", "[4]"), ("false", "False"))
        ),
    ],
)
def test_a_file_is_answered_as_the_command_line_is(modules, capsys, tmp_path, written, sentence):
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {{class_path: anomalib_grad.example.Ours, init_args: {written}}}")
    with pytest.raises(SystemExit):
        parse("--config", str(config))
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_settings_beside_the_class_name_in_a_file_are_asked_below_it(modules, capsys, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("model: {class_path: anomalib_grad.example.Ours, backbone: tiny}")
    with pytest.raises(SystemExit):
        parse("--config", str(config))
    sentence = "beside class_path, model takes only init_args; put the other settings into it."
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize("given", [["--model.backbone=tiny", OURS], ["--model.backbone=tiny"]])
def test_an_argument_of_a_class_that_is_not_named_yet_asks_for_it(modules, capsys, given):
    with pytest.raises(SystemExit):
        parse(*given)
    assert capsys.readouterr().err == "error: --model.backbone needs a --model NAME before it.\n"


@pytest.mark.parametrize(
    ("option", "base", "given", "meant"),
    [
        ("model", AnomalibModule, "Gard", "Grad"),
        ("model", AnomalibModule, "grad", "Grad"),
        ("data", AnomalibDataModule, "MultiCategroy", "MultiCategory"),
    ],
)
def test_a_misspelt_class_is_answered_by_the_one_that_is_meant(capsys, option, base, given, meant):
    register()
    parser = CommandLineParser()
    parser.add_subclass_arguments(base, option)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--{option}", given])
    assert capsys.readouterr().err == f"error: there is no {option} {given}; did you mean --{option} {meant}?\n"


@pytest.mark.parametrize("given", ["products", "./products", "'some products/bottle'"])
def test_a_folder_in_place_of_a_datamodule_is_answered_by_both(capsys, monkeypatch, tmp_path, given):
    monkeypatch.chdir(tmp_path)
    folder = given.strip("'")
    Path(folder).mkdir(parents=True)
    parser = CommandLineParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    with pytest.raises(SystemExit):
        parser.parse_args(["--data", folder])
    sentence = (
        f"--data takes the kind of data, then its folder: --data MultiCategory --data.root {given}, for instance."
    )
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_a_group_of_the_command_itself_may_lack_a_value():
    parser = CommandLineParser()
    parser.add_class_arguments(Training, "optimizer")
    parser.validate(Namespace(optimizer=None))  # as anomalib's commands have it


def test_right_arguments_make_the_object(modules):
    made = parse(OURS, "--model.backbone=tiny")
    assert made.train.model.backbone == "tiny"


def test_classes_of_others_are_answered_as_before(modules, capsys):
    with pytest.raises(SystemExit):
        parse("--model=another_package.Theirs", "--model.bakcbone=x")
    printed = capsys.readouterr().err
    assert "usage:" in printed.lower()
    assert "Option 'bakcbone' is not accepted" in printed
    with pytest.raises(ValueError, match="unknown backbone 'x'"):
        parse("--model=another_package.Theirs", "--model.backbone=x")


def test_misspelt_arguments_of_anomalib_are_answered_by_their_neighbour(capsys):
    parser = CommandLineParser()
    parser.add_argument("--trainer.max_epochs", type=int)
    parser.add_argument("--model")
    for given, meant in (("--trainer.max_epoks", "--trainer.max_epochs"), ("--modl", "--model")):
        with pytest.raises(SystemExit):
            parser.parse_args([given, "3"])
        assert capsys.readouterr().err == f"error: there is no argument {given}; did you mean {meant}?\n"
