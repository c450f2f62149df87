"""Generalization: an edit is understood, not memorised by its prompt."""

from operator import attrgetter

import pytest

from properties.bench import Bench
from properties.checks import TRIANGLE, Check
from properties.outcomes import Record, run_as_test

pytestmark = [pytest.mark.lifelong, pytest.mark.triangle]

CHOSEN = [c for c in TRIANGLE if c.name.startswith(("generalization", "portability"))]


@pytest.mark.parametrize("check", CHOSEN, ids=attrgetter("name"))
def test_paraphrases_and_consequences_are_answered(
    check: Check, bench: Bench, record_property: Record
) -> None:
    run_as_test(check, bench, record_property)
