"""Reliability: what was edited is answered, after all edits."""

from operator import attrgetter

import pytest

from properties.bench import Bench
from properties.checks import TRIANGLE, Check
from properties.outcomes import Record, run_as_test

pytestmark = [pytest.mark.lifelong, pytest.mark.triangle]

CHOSEN = TRIANGLE[:1]


@pytest.mark.parametrize("check", CHOSEN, ids=attrgetter("name"))
def test_edited_prompts_are_answered_after_all_edits(
    check: Check, bench: Bench, record_property: Record
) -> None:
    run_as_test(check, bench, record_property)
