"""One name, one thing: no two files and no two public classes of the project share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from properties.meta.import_rules import ROOMS

pytestmark = pytest.mark.meta

ROOT = Path(__file__).resolve().parents[2]
OF_PYTHON = ("__init__.py", "__main__.py", "conftest.py")


def shared_names(root: Path) -> list[str]:
    """`name: place, place` for each file name and public class name that stands twice."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        place = str(path.relative_to(root))
        if path.name not in OF_PYTHON:
            places[path.name].append(place)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[f"class {node.name}"].append(f"{place}:{node.lineno}")
    return [f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1]


def test_no_two_files_and_no_two_classes_share_a_name() -> None:
    found = shared_names(ROOT)
    assert not found, "\n".join(found)


def test_a_name_that_stands_twice_is_named_with_its_places(tmp_path: Path) -> None:
    for place in ("wise/lm/facts.py", "fixtures/facts.py"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("class Fact: ...\nclass _Own: ...\n", encoding="utf-8")
    assert sorted(shared_names(tmp_path)) == [
        "class Fact: fixtures/facts.py:1, wise/lm/facts.py:1",
        "facts.py: fixtures/facts.py, wise/lm/facts.py",
    ]
