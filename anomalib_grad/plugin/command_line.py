# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Errors on anomalib's command line: one sentence for a mistake of the user, and nothing else.

Otherwise jsonargparse would bury an error in this package's arguments under its usage, the alternatives that it tried,
and all other arguments. Python would show other errors with a traceback.
"""

import re
import sys
from difflib import SequenceMatcher
from importlib import import_module
from inspect import isclass
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any, NoReturn, TypeVar, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from anomalib_grad.files.refusals import PACKAGE, sentence_of

Made = TypeVar("Made")

PAIR = "tuple[int, int]"
"""Type of height and width."""
TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[str]": "a list of texts",
    "collections.abc.Sequence[str]": "a list of texts",
    "pathlib.Path": "a path",
    "None": "null",
}
"""Words for the types of arguments; others keep their Python notation."""
INTERRUPTED = "stopped by Ctrl-C before its end; start it again."
ALIKE = 0.6
"""Smallest share of common characters for which a name is suggested; difflib's default."""

_PROBLEM = re.compile(r'Parser key "([\w.]+)":.*?Problem with given class_path \'([\w.]+)\':\n(.*)', re.DOTALL)
_UNKNOWN = re.compile(
    r"Option '([^']+)' is not accepted|Unrecognized arguments: --([\w.]+)|Group '(.+)' does not accept option '([^']+)'"
)
_UNRECOGNISED = re.compile(r"Unrecognized arguments: (--[\w.]+)")
_UNREADABLE = re.compile(r"Parser key \"([\w.]+)\":\s+Unable to load config '(.*)'")
_MISNAMED = re.compile(
    r"""Parser key "(data|model)":.*(?:Expected a path but|import path (?:string|format)).*value: ([^\n]+)""",
    re.DOTALL,
)
_CLASSLESS = re.compile(
    r"""Parser key "([\w.]+)":.*?Subtypes: [^\n]*?\.(\w+)'>[^\n]*\].*?given class_path '[\w.]+\.\2'"""
    r""".*NestedArg\(key='([\w.]+)'""",
    re.DOTALL,
)
"""Matches an argument that jsonargparse looked up in the base class, for want of a class name."""
_BESIDE_CLASS = re.compile(r"""Parser key "([\w.]+)":.*?Option 'class_path' is not accepted""", re.DOTALL)
"""Matches a class name in a file that jsonargparse took for an argument, because others stand beside it."""
_KEY = re.compile(r'Parser key "([\w.]+)"')
_VALUE = re.compile(r"(?:Given|Got) value: (.*)")
_NO_TEXT = re.compile(r"[-+.\deE]+|True|False|None")
"""Matches what YAML makes of names such as 7, yes, no and null."""


class CommandLineParser(ArgumentParser):
    """jsonargparse's parser that says in one sentence what is wrong with an argument, and which one may be meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # jsonargparse's
        super().__init__(*args, **kwargs)
        if self.exit_on_error:  # not in the parsers for a class's own arguments, where jsonargparse tries alternatives
            shorten_refusals()
            self.add_instantiator(self._build, object, prepend=True)

    def _build(self, class_type: type[Made], *args: Any, **kwargs: Any) -> Made:  # noqa: ANN401  # the constructor's
        """Build an object; if a class of this package rejects a value, exit with its one-sentence error."""
        try:
            return class_type(*args, **kwargs)
        except (OSError, ValueError) as error:
            sentence = sentence_of(error)
            if sentence is None or class_type.__module__.partition(".")[0] != PACKAGE:
                raise
            self.exit(2, f"error: {sentence}\n")

    def validate(self, cfg: Namespace, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # jsonargparse's
        """Check values; those of groups too, which jsonargparse checks only when they are text."""
        for name in () if self.exit_on_error else self.groups or ():  # a class's own; others may lack a value
            value = cfg.get(name, Namespace())
            if not isinstance(value, Namespace | dict | str):
                raise TypeError(f"Parser key \"{name}\":\nUnable to load config '{value}'")
        super().validate(cfg, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with one sentence about the error, or with jsonargparse's message; arguments are jsonargparse's."""
        sentence = (
            explain_argument(message)
            or ask_for_class(message)
            or ask_for_init_args(message)
            or suggest_class(message)
            or suggest_option(message, list(self._option_string_actions))
        )
        if sentence is None or not self.exit_on_error:
            super().error(message, ex)
        self.exit(2, f"error: {sentence}\n")


def shorten_refusals() -> None:
    """Make Python print only the sentence of an uncaught error that has one; the exit status stays what it was."""
    print_traceback = sys.excepthook
    if print_traceback.__module__ == __name__:
        return

    def print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = INTERRUPTED if issubclass(kind, KeyboardInterrupt) else sentence_of(error)
        if sentence is None:
            print_traceback(kind, error, trace)
        else:
            sys.stderr.write("\n".join([f"error: {sentence}", *getattr(error, "__notes__", ())]) + "\n")

    sys.excepthook = print_error


def explain_argument(message: str, outer: str = "") -> str | None:
    """Say what jsonargparse found wrong with an argument of this package's classes; ``None`` for other classes.

    ``outer`` is the option, and a dot, of the class that the message's class is an argument of.
    """
    problem = _PROBLEM.search(message)
    if problem is None or problem[2].partition(".")[0] != PACKAGE:
        return None
    option, path, cause = outer + problem[1], problem[2], problem[3]
    if _PROBLEM.search(cause):
        return explain_argument(cause, f"{option}.")
    module, _, name = path.rpartition(".")
    class_type = getattr(import_module(module), name)
    unknown, keys, value = _UNKNOWN.search(cause), _KEY.findall(cause), _VALUE.search(cause)
    if unknown is not None:
        given = ".".join(filter(None, unknown.groups()))
        alike = nearest(given, arguments(class_type))
        advice = f"did you mean --{option}.{alike}?" if alike else "add -h -v to the command to list them."
        return f"{name} has no argument --{option}.{given}; {advice}"
    unreadable = _UNREADABLE.search(cause)
    if unreadable is not None:
        settings = "settings as '{name: value}', with a space after each colon, or a file of settings"
        return f"--{option}.{unreadable[1]} cannot be {unreadable[2]!r}; it takes {settings}."
    if not keys or value is None:
        return None
    argument = ".".join(keys)
    return f"--{option}.{argument} cannot be {_what_is_wrong(value[1], hint_of(class_type, argument))}."


def _what_is_wrong(value: str, hint: str) -> str:
    """Say why an argument cannot have a value and what it takes; ``hint`` is its type as Python writes it."""
    if hint.startswith(PAIR):
        number = value if value.isdecimal() else "224"
        return f"{value!r}; it takes two whole numbers, such as [{number}, {number}]"
    wanted = " or ".join(TYPE_WORDS.get(name, name) for name in hint.split(" | "))
    if "text" in wanted and _NO_TEXT.fullmatch(value):
        return f"{value}, which is not text; put it in quotes to make it text"
    return f"{value!r}; it takes {wanted}"


def ask_for_class(message: str) -> str | None:
    """Ask for the class name if an argument was given before it or without it; ``None`` if one was named."""
    found = _CLASSLESS.search(message)
    return f"--{found[1]}.{found[3]} needs a --{found[1]} NAME before it." if found else None


def ask_for_init_args(message: str) -> str | None:
    """Ask for ``init_args`` if arguments stand beside the class name in a file; ``None`` if none do."""
    found = _BESIDE_CLASS.search(message)
    return f"beside class_path, {found[1]} takes only init_args; put the other settings into it." if found else None


def suggest_class(message: str) -> str | None:
    """Suggest the model or datamodule most similar to an unknown name, or one for a folder; ``None`` if none fits."""
    found = _MISNAMED.search(message)
    if found is None:
        return None
    option, given = found.groups()
    if option == "data" and Path(given).is_dir():
        example = f"--data MultiCategory --data.root {quote(given)}"
        return f"--data takes the kind of data, then its folder: {example}, for instance."
    registry = import_module({"model": "anomalib.models", "data": "anomalib.data"}[option])
    alike = nearest(given, registry.__all__)
    return f"there is no {option} {given}; did you mean --{option} {alike}?" if alike else None


def suggest_option(message: str, options: list[str]) -> str | None:
    """Suggest the option most similar to one that the command does not have; ``None`` if none is similar."""
    found = _UNRECOGNISED.match(message)
    alike = nearest(found[1], options) if found else None
    return f"there is no argument {found[1]}; did you mean {alike}?" if found and alike else None


def arguments(class_type: type) -> list[str]:
    """List the arguments of a class as on the command line, those of nested dataclasses after a dot."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(class_type, fail_untyped=False)
    return list(parser.get_defaults(skip_validation=True).keys())


def nearest(given: str, names: list[str]) -> str | None:
    """Find the name most similar to the given one, as a whole or in its last part; ``None`` if none is similar."""

    def likeness(name: str) -> float:
        pairs = (given, name), (given.rpartition(".")[2], name.rpartition(".")[2])
        return max(SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max((name for name in names if likeness(name) >= ALIKE), key=likeness, default=None)


def hint_of(class_type: type, argument: str) -> str:
    """Return the type of an argument in Python notation."""
    hint: Any = class_type
    for name in argument.split("."):
        hint = get_type_hints(hint.__init__)[name]
    return hint.__name__ if isclass(hint) and not getattr(hint, "__args__", ()) else str(hint)
