# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What PyTorch's restricted unpickler would compute from a pickle, looked at without computing it.

That unpickler calls trusted functions only. Some of them still take any time or memory: NumPy's make arrays of any
size, ``_codecs.encode`` doubles a text with some codecs, a long text can be copied over and over, and to hash a tuple
that holds another many times over takes forever.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pickletools import OpcodeInfo, genops, markobject
from typing import IO, Any

MOST_IN_TUPLE = 2000
"""Parts of a tuple, one in several places as often as it is there. Python's random state has 628, a tensor fewer."""
MOST_WORK = 10
"""Characters and items that may be given to functions and collections for every byte of a pickle. In what a training
writes it is three at most: the bytes of a NumPy number go to an encoder, to the number and to a list."""
SLACK = 10**5
LEGACY_PICKLES = 5
"""Pickles at the start of a file of PyTorch before 1.6: magic number, version, system, content, names of storages."""
_SIMPLE_TYPE = re.compile(r"[<>=|]?[?biufcSUVmM]\d{0,3}")
_MOST_ITEM_BYTES = 4 * 999  # of "U999"
_ANY_SIZE = {"numpy.ndarray", "builtins.bytearray", "__builtin__.bytearray"}
_UNSTORED = "it claims values that are not stored in it"


class ExcessError(ValueError):
    """A file claims to hold more than it has bytes for; the message follows the file's name in a sentence."""


@dataclass(eq=False)
class Thing:
    """What stands for a class, a function, a collection or the result of a call."""

    name: str = ""
    size: int = 0


class Tuple(tuple[Any, ...]):
    """A tuple that knows how many parts it has, and how many characters and items besides, all the way down."""

    parts: int
    size: int


_MARK = Thing()


def check_pickle(content: bytes | IO[bytes]) -> None:
    """Look for anything in a pickle that would take time or memory out of proportion to its length.

    Args:
        content: The pickle, or an open file that is read up to the pickle's end.

    Raises:
        ExcessError: If there is, or the pickle is damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument, position in genops(content):
            machine.position = position or 0
            machine.step(opcode, argument)
    except ExcessError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of genops, or a stack that lacks something
        raise ExcessError("it is damaged") from error


def check_legacy(file: IO[bytes]) -> None:
    """Look at the pickles with which a file of PyTorch before 1.6 starts, as :func:`check_pickle` does."""
    for _ in range(LEGACY_PICKLES):
        check_pickle(file)


class _Machine:
    """The unpickler's stack and memo, with :class:`Thing` in the place of what it would make.

    Attributes:
        position: Bytes read so far.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.position = self._work = 0

    def step(self, opcode: OpcodeInfo, argument: Any) -> None:  # noqa: ANN401  # of any type
        """Do to the stack what an opcode does."""
        if opcode.name in _HANDLERS:
            _HANDLERS[opcode.name](self, argument)
            return
        if markobject in opcode.stack_before:
            self.pop_to_mark()
            self.pop(opcode.stack_before.index(markobject))
        else:
            self.pop(len(opcode.stack_before))
        self.stack += [argument] * len(opcode.stack_after)

    def pop_to_mark(self) -> list[Any]:
        """Take what lies above the last mark, and the mark."""
        place = next((place for place in reversed(range(len(self.stack))) if self.stack[place] is _MARK), None)
        if place is None:
            raise LookupError("no mark")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def pop(self, count: int) -> list[Any]:
        """Take the last values, in their order."""
        place = len(self.stack) - count
        if place < 0:
            raise LookupError("too little on the stack")
        items = self.stack[place:]
        del self.stack[place:]
        return items

    def push_tuple(self, items: Sequence[Any]) -> None:
        """Put a tuple on the stack, unless it is too large."""
        made = Tuple(items)
        made.parts = 1 + sum(item.parts if isinstance(item, Tuple) else 1 for item in items)
        made.size = len(items) + sum(map(_size, items))
        if made.parts > MOST_IN_TUPLE:
            raise ExcessError("it holds a larger tuple than any training writes")
        self.stack.append(made)

    def grow(self, items: Sequence[Any]) -> None:
        """Put items into the collection on the stack, to which keys of it are hashed."""
        size = len(items) + sum(_size(item) for item in items if isinstance(item, Tuple))
        self.stack[-1].size += size
        self.work(size)

    def work(self, size: int) -> None:
        """Take note of characters and items that something is to be done with."""
        self._work += size
        if self._work > MOST_WORK * self.position + SLACK:
            raise ExcessError(_UNSTORED)

    def call(self) -> None:
        """Put in the place of a function and its arguments what stands for the result."""
        function, arguments = self.pop(2)
        if not all(_is_cheap(name, given) for name, given in _calls(function, arguments)):
            raise ExcessError(_UNSTORED)
        self.work(_size(arguments))
        self.stack.append(Thing(f"{getattr(function, 'name', '')}()", _size(arguments)))

    def build(self) -> None:
        """Give an object its state, which may say how many bytes the values of a NumPy type have."""
        made, state = self.pop(2)
        if made.name == "numpy.dtype()" and not _is_state_of_simple_type(state):
            raise ExcessError(_UNSTORED)
        self.work(_size(state))
        self.stack.append(made)


def _size(value: object) -> int:
    """Give the characters or items of a value."""
    return len(value) if isinstance(value, str | bytes) else getattr(value, "size", 0)


def _calls(function: object, arguments: object) -> Iterator[tuple[str, Sequence[Any]]]:
    """Give the calls that one call makes: torch has a function that calls another with arguments from the pickle."""
    given = arguments if isinstance(arguments, Tuple) else ()
    if isinstance(function, Thing):
        yield function.name, given
        if function.name.endswith("_rebuild_from_type_v2") and len(given) > 2:  # noqa: PLR2004
            yield from _calls(given[0], given[2])


def _is_cheap(name: str, arguments: Sequence[Any]) -> bool:
    """Tell whether a call takes no more time and memory than its arguments."""
    match name.rpartition("."):
        case ("_codecs", _, "encode"):
            return list(arguments[1:]) == ["latin1"]  # as pickle writes bytes
        case ("numpy", _, "dtype"):
            return isinstance(arguments[0], str) and bool(_SIMPLE_TYPE.fullmatch(arguments[0]))
        case (_, _, "_reconstruct"):
            return arguments[1] == (0,)  # as NumPy writes arrays
        case (module, _, "scalar") if module.startswith("numpy"):
            return len(arguments) == 2  # noqa: PLR2004  # type and bytes
        case (module, _, member) if module.startswith("torch"):
            return not member.endswith(("Tensor", "Storage"))  # of which any size can be made
    return name not in _ANY_SIZE


def _is_state_of_simple_type(state: Sequence[Any]) -> bool:
    """Tell whether a state is of one of NumPy's types without fields and shapes, and of few bytes."""
    return list(state[2:5]) == [None] * 3 and max(state[5:7]) <= _MOST_ITEM_BYTES


def _push_name(machine: _Machine, name: str) -> None:
    machine.stack.append(Thing(name.replace(" ", ".")))


def _remember(machine: _Machine, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _push_name,
    "STACK_GLOBAL": lambda machine, _: _push_name(machine, ".".join(machine.pop(2))),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _remember),
    "MEMOIZE": lambda machine, _: _remember(machine, len(machine.memo)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[int(place)])
    ),
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "EMPTY_TUPLE": lambda machine, _: machine.push_tuple(()),
    "TUPLE": lambda machine, _: machine.push_tuple(machine.pop_to_mark()),
    "TUPLE1": lambda machine, _: machine.push_tuple(machine.pop(1)),
    "TUPLE2": lambda machine, _: machine.push_tuple(machine.pop(2)),
    "TUPLE3": lambda machine, _: machine.push_tuple(machine.pop(3)),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda machine, _: machine.stack.append(Thing())),
    **dict.fromkeys(("LIST", "DICT"), lambda machine, _: machine.stack.append(Thing("", len(machine.pop_to_mark())))),
    "APPEND": lambda machine, _: machine.grow(machine.pop(1)),
    "SETITEM": lambda machine, _: machine.grow(machine.pop(2)),
    **dict.fromkeys(("APPENDS", "SETITEMS", "ADDITEMS"), lambda machine, _: machine.grow(machine.pop_to_mark())),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call()),
    "BUILD": lambda machine, _: machine.build(),
}
