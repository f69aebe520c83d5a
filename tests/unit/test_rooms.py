"""The order of rooms that CONTRIBUTING.md states, held against every import of the package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "anomalib_grad"
HEADING = "Rooms, lowest first; a room imports only from those above it in this list:"


def rooms() -> list[str]:
    """Names of rooms and modules, lowest first, as CONTRIBUTING.md lists them."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    block = text.split(HEADING)[1].split("```text\n")[1].split("```")[0]
    return [line.split()[0] for line in block.splitlines() if line.strip()]


def name_of(file: Path) -> str:
    """Dotted name of a file within the package; of a room's ``__init__.py`` the room's."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path) -> Iterator[str]:
    """Dotted names within the package that a file imports from, anywhere in it, for typing too."""
    package = file.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = list(package[: len(package) - node.level + 1])
            elif (node.module or "").split(".")[0] == PACKAGE.name:
                base = []
            else:
                continue
            own = (node.module or "").removeprefix(PACKAGE.name).strip(".") if not node.level else node.module
            target = ".".join([*base, *([own] if own else [])])
            for alias in node.names:
                inner = f"{target}.{alias.name}".strip(".")
                is_module = (PACKAGE / inner.replace(".", "/")).with_suffix(".py").is_file()
                yield inner if is_module or (PACKAGE / inner.replace(".", "/")).is_dir() else target
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".", 1)[1] for alias in node.names if alias.name.startswith("anomalib_grad."))


def place(name: str, order: list[str]) -> int:
    """Place of a module in the order: of its own line, else of its room's."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in order:
            return order.index(".".join(parts[:length]))
    pytest.fail(f"{name} is in no room that CONTRIBUTING.md lists")


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def test_every_room_stands_in_the_list_and_every_line_is_a_room() -> None:
    order = rooms()
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert {name.split(".")[0] for name in order} == there - {"__init__"}


def test_no_module_imports_from_a_room_above_its_own() -> None:
    order = rooms()
    upward = [
        f"{name} imports {other}"
        for name, file in FILES.items()
        if name  # the package itself hands names out, lazily
        for other in imported(file)
        if other and place(other, order) > place(name, order)
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Depth first over imports of any kind; a room's ``__init__`` hands out its files' names and is passed over."""
    graph = {name: {other for other in imported(file) if other in FILES} for name, file in FILES.items()}
    for name, file in FILES.items():
        if file.name == "__init__.py":
            graph[name] = set()
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                walk(other, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())
