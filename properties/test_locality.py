"""Locality: what was not edited is answered as by the unedited model."""

from operator import attrgetter

import pytest

from properties.bench import Bench
from properties.checks import TRIANGLE, Check
from properties.outcomes import Record, run_as_test

pytestmark = [pytest.mark.lifelong, pytest.mark.triangle]

CHOSEN = [c for c in TRIANGLE if c.name.startswith(("far", "near"))]


@pytest.mark.parametrize("check", CHOSEN, ids=attrgetter("name"))
def test_probes_are_answered_as_before_the_edits(
    check: Check, bench: Bench, record_property: Record
) -> None:
    run_as_test(check, bench, record_property)
