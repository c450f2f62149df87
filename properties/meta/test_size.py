"""Modules and lines stay short; only a module that is nothing but data may be longer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from properties.meta.import_rules import ROOMS

pytestmark = pytest.mark.meta

ROOT = Path(__file__).resolve().parents[2]
MAX_MODULE_LINES = 250
MAX_LINE_CHARACTERS = 100


def oversized(root: Path) -> list[str]:
    """What under `root` is too long, as `file: n lines` and `file:line: n characters`."""
    found = []
    rooms = (path for room in ROOMS for path in (root / room).rglob("*.py"))
    for path in sorted([*root.glob("*.py"), *rooms]):
        place, source = path.relative_to(root), path.read_text(encoding="utf-8")
        lines = source.splitlines()
        if len(lines) > MAX_MODULE_LINES and not _is_data(source):
            found.append(f"{place}: {len(lines)} lines")
        for number, line in enumerate(lines, start=1):
            if len(line) > MAX_LINE_CHARACTERS:
                found.append(f"{place}:{number}: {len(line)} characters")
    return found


def _is_data(source: str) -> bool:
    """No function anywhere, and no loop or branch outside a literal."""
    control = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.For, ast.While, ast.If)
    return not any(isinstance(node, control) for node in ast.walk(ast.parse(source)))


def test_no_module_and_no_line_is_too_long() -> None:
    found = oversized(ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\n" * 250, []),
        ("x = 1\n" * 251, []),
        ("x = 1\n" * 250 + "def f(): ...\n", ["wise/lm/long.py: 251 lines"]),
        (f"x = {'1' * 96}\n", []),
        (f"\nx = {'1' * 97}\n", ["wise/lm/long.py:2: 101 characters"]),
    ],
    ids=["at the limit", "data", "code", "a full line", "a long line"],
)
def test_only_what_is_too_long_is_named(source: str, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "wise" / "lm" / "long.py"
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    assert oversized(tmp_path) == expected
