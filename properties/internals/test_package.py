"""Laws of the package `wise` itself: its names are there, and cost nothing until they are used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import wise

pytestmark = pytest.mark.internals

HOME = {
    "Background": "wise.edits",
    "Edit": "wise.edits",
    "WISE": "wise.editors.wise.wise",
    "WISEConfig": "wise.editors.wise.wise",
}


def loads_torch(statement: str) -> bool:
    """Whether a fresh Python has torch after a statement."""
    script = f"import sys\n{statement}\nprint('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return ran.stdout.strip() == "True"


@pytest.mark.parametrize("name", HOME)
def test_a_name_of_the_package_is_that_of_its_module(name: str) -> None:
    assert getattr(wise, name) is getattr(import_module(HOME[name]), name)
    assert name in dir(wise)
    assert name in wise.__all__


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'wise' has no attribute 'WISDOM'"):
        _ = wise.WISDOM


@pytest.mark.parametrize("statement", ["import wise; dir(wise)", "from wise import Edit"])
def test_records_are_imported_without_torch(statement: str) -> None:
    assert not loads_torch(statement)


def test_an_editor_is_imported_with_torch() -> None:
    assert loads_torch("from wise import WISE, WISEConfig")
