# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The plan of the house: imports run downward, in no circle, and no function is long.

Every import statement counts, also inside functions and below ``if TYPE_CHECKING``: knowing a
module is what couples to it, whenever it is loaded.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up. A room may import from floors below it and from rooms beside it.
FLOORS = (
    {'utils', 'registry', 'config_paths', 'version'},
    {'weights', 'structures', 'analysis', 'visualization'},
    {'models', 'datasets'},
    {'engine'},
    {'transfer', 'evaluation'},
    {'cli', 'apis'},
    {'tools'},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAX_LINES = 60
NOT_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def find_modules() -> dict[str, Path]:
    """Files of the package and the tools by the names that they are imported by."""
    paths = [path for path in (ROOT / 'mmmokd').rglob('*.py') if '.mim' not in path.parts]
    modules = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix('').parts
        modules['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    # A tool imports what lies beside it by its bare name.
    return modules | {path.stem: path for path in (ROOT / 'tools').rglob('*.py')}


MODULES = find_modules()
TREES = {name: ast.parse(path.read_text(encoding='utf-8')) for name, path in MODULES.items()}


def imports_of(name: str) -> Iterator[str]:
    """Modules of ours that a module imports, wherever in its text."""
    package = name.split('.') if MODULES[name].stem == '__init__' else name.split('.')[:-1]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = '.'.join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f'{source}.{alias.name}'
                found = full if full in MODULES else source
                if found in MODULES and found != name:
                    yield found


def room_of(name: str) -> str | None:
    """The room of a module; None for the package's own door, which everybody passes."""
    if ROOT / 'tools' in MODULES[name].parents:
        return 'tools'
    return name.split('.')[1] if '.' in name else None


GRAPH = {name: set(imports_of(name)) for name in MODULES}
ARROWS = [(source, target) for source, targets in GRAPH.items() for target in sorted(targets)]


def check_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f'a circle of imports: {" <- ".join(error.args[1])}')


def test_every_room_has_a_floor():
    rooms = {room_of(name) for name in MODULES} - {None}
    assert rooms == set(FLOOR) & rooms
    assert {'utils', 'models', 'engine', 'evaluation', 'apis', 'tools'} <= rooms
    assert len(ARROWS) > 200


def test_imports_run_downward():
    upward = [
        f'{source} imports {target}'
        for source, target in ARROWS
        if room_of(source) and room_of(target) and FLOOR[room_of(target)] > FLOOR[room_of(source)]
    ]
    assert not upward


def test_no_circle_of_modules():
    check_no_circle({name: GRAPH[name] for name in MODULES if room_of(name)})


def test_no_circle_of_rooms():
    rooms: dict[str, set[str]] = {}
    for source, target in ARROWS:
        a, b = room_of(source), room_of(target)
        if a and b and a != b:
            rooms.setdefault(a, set()).add(b)
    check_no_circle(rooms)


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Numbers of the lines that hold code: not blank, no comment, no docstring."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            found -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return found


def test_no_function_is_long():
    long, count = [], 0
    for name, tree in TREES.items():
        lines = code_lines(MODULES[name].read_text(encoding='utf-8'), tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = len(lines & set(range(node.lineno, node.end_lineno + 1)))
                count += 1
                if length > MAX_LINES:
                    long.append(f'{name}.{node.name} has {length} lines of code')
    assert not long
    assert count > 500
