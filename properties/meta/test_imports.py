"""The import arrows hold, the rules catch what they claim to, and every room is the checkout's."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from properties.meta.import_rules import ROOMS, ROOT, RULES, Rule, loads_torch, violations

pytestmark = pytest.mark.meta


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.claim)
def test_the_project_keeps_its_import_arrows(rule: Rule) -> None:
    found = violations(ROOT, rule)
    assert not found, f"{rule.claim}:\n" + "\n".join(found)


# A file, its text, and the claims that it breaks: all of them and no other.
PLANTED = {
    "upwards": (
        "wise/measures/summary.py",
        "from wise.evaluation import metrics",
        {"the vocabulary imports only itself"},
    ),
    "upwards, as a type": (
        "wise/editor.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from wise.lm.tokens import Batch",
        {"the vocabulary imports only itself"},
    ),
    "torch among the records, as a type": (
        "wise/edits.py",
        "import typing\nif typing.TYPE_CHECKING:\n    from torch import Tensor",
        {"records, rows and statistics are without torch"},
    ),
    "torch among the statistics, in a function": (
        "wise/measures/statistics.py",
        "def mean(values):\n    import torch.nn as nn\n    return nn",
        {"records, rows and statistics are without torch"},
    ),
    "torch when the protocol loads": (
        "wise/editor.py",
        "try:\n    from torch import Tensor\nexcept ImportError:\n    Tensor = None",
        {"the protocol and the package load without torch"},
    ),
    "the else of TYPE_CHECKING is run": (
        "wise/editor.py",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import torch",
        {"the protocol and the package load without torch"},
    ),
    "a class body is run": (
        "wise/__init__.py",
        "class Lazy:\n    from .wise import WISE",
        {"the protocol and the package load without torch"},
    ),
    "rows with numpy": (
        "wise/measures/rows.py",
        "import json, numpy",
        {"ledgers and rows need the standard library alone"},
    ),
    "a job that knows what it runs": (
        "wise/jobs/grid.py",
        "from wise.evaluation import league",
        {"jobs know nothing of what is run"},
    ),
    "relative, sideways": (
        "wise/lm/tokens.py",
        "from ..evaluation.metrics import reliability",
        {"wise.lm stands on the vocabulary"},
    ),
    "relative, from a package's own file": (
        "wise/lm/__init__.py",
        "from .. import memory",
        {"wise.lm stands on the vocabulary"},
    ),
    "the whole package by its bare name": (
        "wise/lm/hooks.py",
        "import wise",
        {"wise.lm stands on the vocabulary"},
    ),
    "the library imports its fixtures": (
        "wise/evaluation/lifelong.py",
        "def run():\n    from fixtures import world",
        {"the library knows nothing of its tests"},
    ),
    "the library imports its fixtures by a text": (
        "wise/localization/study.py",
        'import importlib\nmodule = importlib.import_module("properties.checks")',
        {"the library knows nothing of its tests"},
    ),
    "WISE imports another editor": (
        "wise/editors/wise/wise.py",
        "from wise.editors.key_value import keyvalue",
        {"WISE stands without the other editors"},
    ),
    "fixtures import a check": (
        "fixtures/faulty.py",
        "import properties.checks",
        {"fixtures stand on the library"},
    ),
    "a check imports the reports": (
        "properties/checks.py",
        "import reports.tables",
        {"the rules and their tests stand on the fixtures"},
    ),
    "a figure with a model": (
        "reports/figures.py",
        "from wise.editors.wise.wise import WISE\nimport transformers",
        {"reports stand on rows, without torch or a model"},
    ),
    "the command line loads torch at once": (
        "reports/cli/league_command.py",
        "import torch",
        {"the command line imports the rest inside its commands"},
    ),
}

KEPT = {
    "wise/__init__.py": (
        "def __getattr__(name):\n    from wise.editors.wise.wise import WISE\n    return WISE"
    ),
    "wise/editor.py": (
        "if TYPE_CHECKING:\n    from torch import Tensor\n    from wise.edits import Edit\n"
        "def load(name):\n    return importlib.import_module(name)"
    ),
    "wise/measures/rows.py": "import json\nfrom wise import edits",
    "wise/jobs/grid.py": "import submitit\nfrom wise.jobs.ledger import Ledger",
    "wise/lm/__init__.py": "from .hooks import capture",
    "wise/lm/hooks.py": "import torch\nfrom ..editor import Editor",
    "wise/editors/wise/wise.py": (
        "from wise.editors.wise.memory import SideMemory\nfrom wise.lm import tail"
    ),
    "wise/editors/key_value/rome.py": "from wise.editors.key_value.keyvalue import keys",
    "fixtures/models.py": "import torch\nfrom wise.lm import tokens",
    "properties/checks.py": "import torchmetrics\nfrom fixtures import world",
    "properties/internals/test_page.py": "from reports import page",
    "reports/cli/league_command.py": (
        "from reports import page\ndef league():\n    import fixtures.models"
    ),
    "reports/page.py": "import pandas\nfrom wise.measures import rows\nfrom . import tables",
}


def _plant(root: Path, place: str, source: str) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_violation_is_caught_by_its_rule_and_no_other(fault: str, tmp_path: Path) -> None:
    place, source, claims = PLANTED[fault]
    _plant(tmp_path, place, source)
    assert {rule.claim for rule in RULES if violations(tmp_path, rule)} == claims


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule.claim for rule in RULES} == {
        claim for _, _, claims in PLANTED.values() for claim in claims
    }


def test_imports_along_the_arrows_are_no_violation(tmp_path: Path) -> None:
    for place, source in KEPT.items():
        _plant(tmp_path, place, source)
    assert [each for rule in RULES for each in violations(tmp_path, rule)] == []


def test_a_violation_is_named_by_file_line_and_import(tmp_path: Path) -> None:
    _plant(tmp_path, "wise/measures/rows.py", '"""Rows."""\n\nimport json\nimport pandas as pd\n')
    [rule] = [
        rule for rule in RULES if "wise.measures.rows" in rule.modules and not rule.third_party
    ]
    assert violations(tmp_path, rule) == [
        "wise/measures/rows.py:4: wise.measures.rows imports pandas"
    ]


# What a test's file holds, where fixtures.heavy imports torch, and whether its tests are units.
TEST_FILES = {
    "import torch.nn as nn": False,
    "from transformers import AutoConfig": False,
    "from fixtures import heavy": False,
    "from fixtures.heavy import tensor": False,
    "import fixtures.light": False,
    "import numpy\nfrom wise import edits": True,
    "def test_law():\n    import torch": True,
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor": True,
}


@pytest.mark.parametrize(("source", "is_unit"), TEST_FILES.items())
def test_a_unit_is_a_test_whose_file_loads_without_torch(
    source: str, is_unit: bool, tmp_path: Path
) -> None:
    _plant(tmp_path, "fixtures/heavy.py", "from torch import tensor")
    _plant(tmp_path, "fixtures/light.py", "import fixtures.light, fixtures.heavy")
    _plant(tmp_path, "properties/test_one.py", source)
    assert loads_torch(tmp_path / "properties" / "test_one.py", tmp_path) is not is_unit


def test_units_are_found_without_loading_torch() -> None:
    call = "pytest.main(['-m', 'unit', '--collect-only', '-q', '-p', 'no:cacheprovider'])"
    script = f"import pytest, sys; sys.exit({call} or 'torch' in sys.modules)"
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "test_statistics.py" in ran.stdout


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "benchmarks"])
def test_a_room_is_the_one_of_this_checkout(room: str) -> None:
    assert Path(str(importlib.import_module(room).__file__)).parent == ROOT / room


def test_rooms_of_another_folder_with_the_same_names_are_passed_over(tmp_path: Path) -> None:
    for folder in ("site", "own"):
        for room in (*ROOMS, "tests"):
            _plant(tmp_path, f"{folder}/{room}/__init__.py", "raise ImportError(__file__)")
        _plant(tmp_path, f"{folder}/conftest.py", "raise ImportError(__file__)")
    _plant(tmp_path, "own/pyproject.toml", '[tool.pytest.ini_options]\naddopts = "--not-ours"\n')
    this_file = str(Path(__file__).resolve())
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", this_file, "-k", "of_this_checkout", "-p", "no:xdist"],
        cwd=tmp_path / "own",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
